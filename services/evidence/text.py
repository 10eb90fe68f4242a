"""Words of any language, for comparing texts: folding, stems, stop words, shingles. Pure.

Scripts without spaces (Chinese, Japanese, Thai …) are cut into character bigrams, so that overlap still means
something there. This is for scoring sentences, not for search: the full-text index has its own tokenizer.
"""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[぀-ヿ㐀-䶿一-鿿豈-﫿가-힯฀-๿]+|[^\W_]+(?:['’][^\W_]+)?")
_UNSPACED = re.compile(r"[぀-ヿ㐀-䶿一-鿿豈-﫿฀-๿]")
_SHINGLE_WORDS = 5
_SUFFIXES = (("ies", "y", 5), ("sses", "ss", 5), ("ing", "", 6), ("ed", "", 5), ("ly", "", 6))  # shortest word it fits

_STOP_WORDS = """
    a about after all also an and any are as at be because been before being between both but by can could
    did do does doing during each for from further had has have having he her here hers him his how i if in into is
    it its itself just me more most my no nor not of off on once only or other our out over own same she should
    so some such than that the their them then there these they this those through to too under until up very was
    we were what when where which while who whom why will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def words(text: str) -> list[str]:
    """Folded words in order, stop words included; unspaced scripts as character bigrams."""
    found: list[str] = []
    for match in _WORD.finditer(text):
        word = match.group().casefold()
        if not _UNSPACED.match(word) or len(word) < 3:
            found.append(word)
        else:
            found.extend(word[start : start + 2] for start in range(len(word) - 1))
    return found


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """A light English stem (plural, -ed, -ing, -ly, possessive): enough to match a question's wording.

    Words of up to three letters and of other scripts pass unchanged.
    """
    if len(word) <= 3 or not word.isascii():
        return word
    word = re.sub(r"['’]s?$", "", word)
    for suffix, replacement, least in _SUFFIXES:
        if word.endswith(suffix) and len(word) >= least:
            return _undouble(word[: -len(suffix)] + replacement)
    if word.endswith("es") and len(word) > 4 and word[-3] in "sxzh":
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word.removesuffix("e")


def _undouble(word: str) -> str:
    doubled = len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz"
    return word[:-1] if doubled else word.removesuffix("e")


def content(text: str) -> list[str]:
    """Stems of the words that carry meaning, in order."""
    return [stem(word) for word in words(text) if word not in STOP_WORDS]


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Every run of five words; a shorter text is one shingle, so that equal short texts compare equal."""
    found = words(text)
    last = max(1, len(found) - _SHINGLE_WORDS + 1)
    return frozenset(tuple(found[start : start + _SHINGLE_WORDS]) for start in range(last))
