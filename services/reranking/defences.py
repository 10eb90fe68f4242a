"""Passages that were written for rankers, not for readers: found, marked, and kept off the first page. Pure.

A cross-encoder believes what it reads: a passage about something else that repeats the question, lists its words, or
says that it is relevant, climbs over honest ones. Four signs:

    stuffing     the question's words stand in a row longer than any sentence needs, fill the passage, or make up
                 several sentences alike (counted on stems without stop words)
    echo         a sentence says little else than the question, word for word
    instruction  a sentence speaks to the ranker ("this passage is relevant", "ignore the other documents")
    jump         only one leg of the first stage found it, and it rose further than one view is trusted

A passage is *hostile* when leaving those sentences out leaves nothing that answers to the question (leave-one-sentence
-out, by words): honest pages of questions and answers echo the question too, but their answers speak about it. Hostile
passages stay in the list, behind the first page. Hostile, stuffing and instruction make a passage *suspect*: the large
model must judge it. The audit says why. `benchmarks/attacks.py` shows what the thresholds catch and what they cost.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, pairwise

import numpy as np

from services.contracts import Bool, Candidates, Float32, Int32, Passage
from services.evidence.text import STOP_WORDS, stem, words
from services.retrieval.lexical import lexical, readable

FIRST_PAGE = 10
EXAMINED = FIRST_PAGE  # of the first stage's order, before anything is scored; `settle` looks at whoever comes up later
MAX_JUMP = 50  # places that a passage may rise on one leg's word and a cross-encoder's

RUN_FACTOR, RUN_LEAST = 2.0, 8  # a run of question words longer than both is a list, not a sentence
DENSITY, DENSITY_WORDS = 0.4, 24  # share of a passage's words, from this length on
OFTEN = 3  # times that half of the question's words, or a sentence made of them, must come back
ECHO, ECHO_WORDS = 0.8, 3  # share of the question's neighbouring words that a sentence repeats; least words
ECHO_LONGER = 1.5  # an echo has at most so many times the question's words: what it adds may be the answer
REST_COVERS = 0.3  # share of the question's words that an honest rest still speaks of
REST_COVERS_MORE = 0.5  # the same beside a word to the ranker
REST_LEAST, REST_WORDS = 3, 12  # so few words around one echo may be a short answer; fewer are none

WORD_CHARS = 6.0  # of an English word and its blank: a guess, for a first look only
_FIRST_LOOK = 0.08  # share of a passage's words, above which its words are counted one by one
_FIRST_ECHO = 0.5  # share of the question's neighbouring words that stand side by side in it
_ASKING = frozenset(
    ("what", "how", "who", "whom", "whose", "why", "when", "where", "which", "is", "are", "was", "were", "do", "does",
     "did", "can", "should")
)  # fmt: skip
_PLAIN = str.maketrans(dict.fromkeys(string.punctuation, " "))
_FAST_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)?")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。!?])(?=[^\x00-\x7f])|\n+")  # NFKC has no other exclamation mark
_MARKS = (
    "relevan",
    "ignore",
    "disregard",
    "forget",
    "rank",
    "answers th",
    "answers your",
    "best",
    "correct",
    "perfect",
)
_INSTRUCTION = re.compile(
    r"\b(?:this|the following|the above) (?:passage|document|text|article|page|chunk|result)s? "
    r"(?:is|are|was) (?:the |a |an |most |very |highly |perfectly |completely |directly |extremely |clearly |100% )*"
    r"(?:relevant|best|correct|right|perfect|ideal|only)\b"
    r"|\bit (?:is|gives|has|holds) the (?:only |single )?(?:best|correct|right|perfect|complete|full) answer\b"
    r"|\b(?:ignore|disregard|forget) (?:all |any |the |every )*(?:other|previous|prior|above|remaining|earlier)\b"
    r"|\brank (?:this|it|me) (?:first|top|highest|at|above|higher|as)\b"
    r"|\b(?:relevance|relevancy|ranking) (?:score|grade|label)? ?(?:is|:|=) ?(?:\d|high|perfect|max|true)"
    r"|\b(?:fully|perfectly|completely|directly|exactly) answers? (?:the|this|your) (?:query|question)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Flags:
    """What is known of n candidates: suspect, hostile, examined (n,) bool, hostile ⊂ suspect ⊂ examined.

    reasons[i]: the signs of row i as words of the module's table, space between; "" = none.
    """

    suspect: Bool
    hostile: Bool
    examined: Bool
    reasons: tuple[str, ...]

    @classmethod
    def none(cls, count: int) -> Flags:
        """Of `count` candidates, none looked at yet."""
        nobody = np.zeros(count, np.bool_)
        return cls(nobody, nobody, nobody, ("",) * count)


class Asked:
    """A question as the signs are counted against it."""

    def __init__(self, question: str) -> None:
        self.words = _words(readable(question))
        self.terms = _stems(self.words)
        self.wanted = frozenset(self.terms)
        self.pairs = frozenset(pairwise(self.words))
        self.asks = len(self.words) > ECHO_WORDS and self.words[0] in _ASKING
        self.opening = (self.words[0], self.words[1]) if len(self.words) > 1 else None
        # What a stem has in common with its word's other forms: studi- is in studies and study.
        self.needles = {term: term[:-1] if len(term) > 4 and term.isascii() else term for term in self.terms}
        self.literal = [f"{first} {second}" for first, second in self.pairs]
        self._weights = dict.fromkeys(self.terms, 1.0)

    def weigh(self, candidates: Candidates) -> None:
        """Let a word count by ln(1 + n / (1 + df)) over the n candidates: what all of them say tells nothing."""
        texts = [lexical(one.title, one.heading, one.text).lower() for one in candidates.passages]
        for term, needle in self.needles.items():
            self._weights[term] = math.log1p(len(texts) / (1 + sum(needle in text for text in texts)))

    def covered(self, stems: Iterable[str]) -> float:
        """The weight of the question's words among `stems`, as a share of all of its words' weight."""
        found = self.wanted.intersection(stems)
        return sum(self._weights[term] for term in found) / sum(self._weights.values())


def flags(question: str, candidates: Candidates, rows: Iterable[int], known: Flags | None = None) -> Flags:
    """Look at the candidates `rows`; what `known` says of rows already examined stands."""
    known = known or Flags.none(len(candidates.passages))
    asked, weighed = Asked(question), False
    suspect, hostile, examined = known.suspect.copy(), known.hostile.copy(), known.examined.copy()
    reasons = list(known.reasons)
    for row in rows:
        if not examined[row]:
            passage = candidates.passages[row]
            stands_out = _stands_out(asked, passage)
            if stands_out and not weighed:
                asked.weigh(candidates)
                weighed = True
            signs, empty = signs_of(asked, passage) if stands_out else ((), False)
            examined[row], hostile[row] = True, bool(signs) and empty
            suspect[row] = hostile[row] or bool({"stuffing", "instruction"}.intersection(signs))
            reasons[row] = " ".join((*signs, reasons[row])).strip()
    return Flags(suspect, hostile, examined, tuple(reasons))


def settle(question: str, candidates: Candidates, score: Float32, rank: Int32, known: Flags) -> tuple[Float32, Flags]:
    """The final scores with the defences in them, and everything that was found on the way.

    score (n,) float32 is what the order sorts by; rank (n,) int32 the first stage's, 1-based. Whoever stands on the
    first page is examined, until nobody on it is hostile.
    """
    calm = capped(score, rank, seconded(candidates))
    known = _jumped(known, calm < score)
    while True:
        settled = held(calm, known.hostile)
        page = np.lexsort((rank, -settled))[:FIRST_PAGE]
        fresh = page[~known.examined[page]].tolist()
        if not fresh:
            return settled, known
        known = flags(question, candidates, fresh, known)


def held(score: Float32, hostile: Bool) -> Float32:
    """(n,) float32: no hostile row above the first page of the others, however high its score was."""
    others = np.sort(score[~hostile])[::-1]
    if not hostile.any() or not len(others):
        return score
    bound = np.nextafter(others[min(FIRST_PAGE, len(others)) - 1], np.float32(-np.inf))
    return np.where(hostile, np.minimum(score, bound), score).astype(np.float32)


def capped(score: Float32, rank: Int32, second_view: Bool) -> Float32:
    """(n,) float32: a row without a second view rises at most `MAX_JUMP` places above its first-stage rank."""
    best = rank - MAX_JUMP  # the best place such a row may take
    limited = ~second_view & (best > 1)
    others = np.sort(score[~limited])[::-1]
    if not limited.any() or not len(others):
        return score
    above = others[np.minimum(best - 1, len(others)) - 1]  # the score that must stay above it
    bound = np.nextafter(above, np.float32(-np.inf))
    return np.where(limited, np.minimum(score, bound), score).astype(np.float32)


def seconded(candidates: Candidates) -> Bool:
    """(n,) bool: both legs of the first stage list the row."""
    return (candidates.dense_rank > 0) & (candidates.sparse_rank > 0)


def signs_of(asked: Asked, passage: Passage) -> tuple[tuple[str, ...], bool]:
    """(the signs of one passage, whether nothing else in it answers to the question)."""
    if not asked.wanted:
        return (), False
    lines = [line for line in _SENTENCE.split(lexical(passage.title, passage.heading, passage.text)) if line]
    words = [_words(line) for line in lines]
    stems = [_stems(line) for line in words]
    listed = any(_is_run(line, asked.wanted) for line in stems) or _is_refrain(stems, asked.wanted)
    stuffed = listed or _is_dense(list(chain(*stems)), asked.wanted)
    orders = _instructions(lines)
    echoes = [_echoes(line, asked, free=any(orders)) for line in words]
    seen = {"stuffing": stuffed, "echo": any(echoes), "instruction": any(orders)}
    signs = tuple(name for name, there in seen.items() if there)
    if not signs or listed:
        return signs, listed
    rest = [stem for line, echo, order in zip(stems, echoes, orders, strict=True) if not echo | order for stem in line]
    alone = sum(echoes) == 1 and not any(orders)
    curt = alone and REST_LEAST <= len(rest) < REST_WORDS
    covers = REST_COVERS_MORE if any(orders) else REST_COVERS
    return signs, not curt and asked.covered(rest) < covers


def _stands_out(asked: Asked, passage: Passage) -> bool:
    """A first look, by substrings: false only where `signs_of` would see nothing, for honest passages mostly that."""
    text = lexical(passage.title, passage.heading, passage.text).lower()
    if any(mark in text for mark in _MARKS):
        return True
    hits = sum(text.count(needle) for needle in set(asked.needles.values()))
    if hits > RUN_LEAST and hits > _FIRST_LOOK * len(text) / WORD_CHARS:
        return True
    if not text.isascii():  # a rare look is dear, and scripts without blanks have no pairs of words to find
        return any(needle in text for needle in asked.needles.values())
    plain = " ".join(text.translate(_PLAIN).split())
    found = sum(pair in plain for pair in asked.literal)
    return len(asked.words) >= ECHO_WORDS and found >= _FIRST_ECHO * len(asked.literal)


def _words(text: str) -> list[str]:
    """`services.evidence.text.words` without possessive endings, faster where all is ASCII."""
    found = _FAST_WORD.findall(text.lower()) if text.isascii() else words(text)
    return [word.removesuffix("'s") for word in found]


def _stems(line: Sequence[str]) -> list[str]:
    return [stem(word) for word in line if word not in STOP_WORDS]


def _is_run(stems: Sequence[str], wanted: frozenset[str]) -> bool:
    """Whether a sentence lists the question's words, over and over: one word alone is its subject."""
    runs = [list(run) for inside, run in groupby(stems, wanted.__contains__) if inside]
    longest = max(runs, key=len, default=[])
    several = len(set(longest)) >= max(min(2, len(wanted)), len(wanted) / 2)
    return several and len(longest) > max(RUN_FACTOR * len(wanted), RUN_LEAST)


def _is_refrain(lines: Sequence[Sequence[str]], wanted: frozenset[str]) -> bool:
    """Whether one sentence made of the question's words comes back."""
    alike = Counter(tuple(line) for line in lines if _is_list(line, wanted))
    return max(alike.values(), default=0) >= OFTEN


def _is_dense(stems: Sequence[str], wanted: frozenset[str]) -> bool:
    """Whether a passage is full of several of the question's words."""
    counts = Counter(word for word in stems if word in wanted)
    often = sum(count >= OFTEN for count in counts.values())
    several = often >= max(min(2, len(wanted)), len(wanted) / 2)
    return several and len(stems) >= DENSITY_WORDS and counts.total() >= DENSITY * len(stems)


def _is_list(stems: Sequence[str], wanted: frozenset[str]) -> bool:
    """Whether a sentence is made of the question's words: most of them are there, and little else."""
    hits = sum(stem in wanted for stem in stems)
    return len(wanted) > 1 and 2 * len(wanted.intersection(stems)) > len(wanted) and 2 * hits > len(stems)


def _echoes(line: Sequence[str], asked: Asked, *, free: bool) -> bool:
    """Whether a sentence holds nearly all neighbouring pairs of the question's words, and little else.

    It may hold more where it opens as the question does ("who built the …": an answer names the builder), and where
    it is `free` to, beside a word to the ranker.
    """
    if len(asked.words) < ECHO_WORDS:
        return False
    found = asked.pairs.intersection(pairwise(line))
    bare = len(line) <= ECHO_LONGER * len(asked.words) + 1
    return len(found) >= ECHO * len(asked.pairs) and (bare or free or (asked.asks and asked.opening in found))


def _instructions(lines: Sequence[str]) -> list[bool]:
    found = []
    for line in lines:
        folded = line.casefold()
        found.append(any(mark in folded for mark in _MARKS) and bool(_INSTRUCTION.search(folded)))
    return found


def _jumped(known: Flags, lowered: Bool) -> Flags:
    if not lowered.any():
        return known
    marks = (f"{reason} jump".strip() if low else reason for reason, low in zip(known.reasons, lowered, strict=True))
    return replace(known, reasons=tuple(marks))
