"""Whether a passage says what a written sentence says, and where: the quote behind a citation. Pure.

Every run of up to RUN neighbouring units of the passage (sentences.py) is compared with the sentence:

    recall   share of the sentence's content words (stems, each once) that the run holds
    numbers  every number of the sentence stands in the run: 12, 1,200, 3.5, 2.1.4, "twelve" as 12
    polarity both deny, or neither does

A run supports the sentence when recall reaches SUPPORTED and neither numbers nor polarity speak against it; the
shortest such run is the quote. Words are a floor, not understanding: a sentence that
swaps two names of its passage passes, and a free paraphrase fails. What fails is never shown as if it were cited.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.evidence.sentences import split
from services.evidence.text import STOP_WORDS, stem, words

RUN = 3
SUPPORTED = 0.6

_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\w])|(?<![\w.])\d+(?:[.,]\d+)*(?=[a-zA-Z%°])")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NAMES = "zero one two three four five six seven eight nine ten eleven twelve"
_WORDED = {name: str(value) for value, name in enumerate(_NAMES.split())}
_DENYING = "no not never none nor neither nothing nobody cannot without lacks lacked unable"
_DENIALS = frozenset(_DENYING.split())
_LEAST_WORDED = 2  # "one" and "zero" are hardly ever meant as numbers


@dataclass(frozen=True, slots=True)
class Support:
    """`passage.text[start:end]` is what comes closest; `recall` in [0, 1]. `holds` = it says the sentence."""

    start: int
    end: int
    recall: float
    holds: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """What of a text must be found again: stems of its content words, its numbers, whether it denies."""

    stems: frozenset[str]
    numbers: frozenset[str]
    denies: bool


def support(sentence: str, text: str) -> Support | None:
    """The run of `text` that comes closest to `sentence`; None when nothing of it does."""
    wanted = claim_of(sentence)
    if not wanted.stems and not wanted.numbers:
        return None
    units = split(text)
    found = [claim_of(text[unit.start : unit.end]) for unit in units]
    runs = [
        (_compared(wanted, found[first : last + 1]), first, last)
        for first in range(len(units))
        for last in range(first, min(len(units), first + RUN))
    ]
    best = max(runs, key=lambda run: _preference(*run), default=None)
    if best is None or best[0].recall == 0:
        return None
    verdict, first, last = best
    return Support(units[first].start, units[last].end, verdict.recall, verdict.holds)


def claim_of(text: str) -> Claim:
    """The claim of a sentence or of a unit."""
    found = [word.replace("\u2019", "'") for word in words(text)]
    stems = frozenset(stem(word) for word in found if word not in STOP_WORDS and word not in _WORDED)
    denies = any(word in _DENIALS or word.endswith("n't") for word in found)
    return Claim(frozenset(one for one in stems if not one.isdigit()), numbers_of(text), denies)


def numbers_of(text: str) -> frozenset[str]:
    """Every number of `text` in one spelling: thousands without commas, no trailing zeros after a point."""
    plain = {_plain(found.group()) for found in _NUMBER.finditer(text)}
    worded = {number for word in words(text) if (number := _WORDED.get(word)) and int(number) >= _LEAST_WORDED}
    return frozenset(plain | worded)


@dataclass(frozen=True, slots=True)
class _Verdict:
    recall: float
    holds: bool


def _preference(verdict: _Verdict, first: int, last: int) -> tuple[bool, int, float, int]:
    """Greater is better: a run that holds, of these the shortest, then the one that says most, then the first."""
    return verdict.holds, (first - last) * verdict.holds, verdict.recall, first - last


def _compared(wanted: Claim, run: Sequence[Claim]) -> _Verdict:
    stems = frozenset().union(*(one.stems for one in run))
    numbers = frozenset().union(*(one.numbers for one in run))
    recall = len(wanted.stems & stems) / len(wanted.stems) if wanted.stems else float(wanted.numbers <= numbers)
    # A run denies when the unit does that says most of the sentence: a neighbour may deny something else.
    closest = max(run, key=lambda one: len(one.stems & wanted.stems))
    holds = recall >= SUPPORTED and wanted.numbers <= numbers and closest.denies == wanted.denies
    return _Verdict(recall, holds)


def _plain(number: str) -> str:
    if _GROUPED.fullmatch(number):
        number = number.replace(",", "")
    whole, point, rest = number.partition(".")
    if point and rest.isdigit() and whole.isdigit():
        rest = rest.rstrip("0")
        return f"{int(whole)}.{rest}" if rest else str(int(whole))
    return str(int(number)) if number.isdigit() else number
