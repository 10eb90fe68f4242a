"""Passages that were written for rankers, not for readers: found, marked, and kept off the first page. Pure.

A cross-encoder believes what it reads: a passage about something else that repeats the question, lists its words, or
says that it is relevant, climbs over honest ones. Four signs, each counted on stems without stop words:

    stuffing     the question's words stand in a row longer than any sentence needs, or fill the passage
    echo         a sentence repeats the question's wording
    instruction  a sentence speaks to the ranker ("this passage is relevant", "ignore the other documents")
    jump         only one leg of the first stage found it, and it rose further than one view is trusted

The first three make a passage *suspect*: the large model must judge it, and the audit says why. It is *hostile* when
leaving those sentences out leaves nothing that answers to the question (leave-one-sentence-out, by words): honest
pages of questions and answers echo the question too, but their answers speak about it. Hostile passages stay in the
list, behind the first page. Thresholds: `benchmarks/attacks.py` shows what they catch and what they cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from services.contracts import Bool, Candidates, Float32, Int32, Passage
from services.evidence.text import content

EXAMINED = 20  # of the first stage's order: the rows that have a chance of the first page
FIRST_PAGE = 10
MAX_JUMP = 50  # places that a passage may rise on one leg's word and a cross-encoder's

RUN_FACTOR, RUN_LEAST = 2.0, 8  # a run of question words longer than both is a list, not a sentence
DENSITY, DENSITY_WORDS = 0.4, 24  # share of a passage's words, from this length on
ECHO, ECHO_TERMS = 0.8, 3  # share of the question's neighbouring words that one sentence repeats
REST_COVERS = 0.3  # share of the question's words that an honest rest still speaks of

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_MARKS = ("relevan", "ignore", "disregard", "rank", "instruction", "answers th", "answer to th", "best match")
_INSTRUCTION = re.compile(
    r"\b(?:this|the following|the above) (?:passage|document|text|article|page|chunk|result)s? "
    r"(?:is|are|was) (?:the |a |an |most |very |highly |perfectly |completely |directly |extremely |clearly |100% )*"
    r"(?:relevant|best|correct|right|perfect|ideal|only)\b"
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


def flags(question: str, candidates: Candidates, rows: Iterable[int], known: Flags | None = None) -> Flags:
    """Look at the candidates `rows`; what `known` says of rows already examined stands."""
    known = known or Flags.none(len(candidates.passages))
    terms = content(question)
    suspect, hostile, examined = known.suspect.copy(), known.hostile.copy(), known.examined.copy()
    reasons = list(known.reasons)
    for row in rows:
        if not examined[row]:
            signs, empty = signs_of(terms, candidates.passages[row])
            examined[row], suspect[row], hostile[row] = True, bool(signs), bool(signs) and empty
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


def signs_of(terms: Sequence[str], passage: Passage) -> tuple[tuple[str, ...], bool]:
    """(the signs of one passage, whether nothing else in it answers to the question).

    `terms` are the question's stems in order. A passage of too few words to tell shows no sign of stuffing.
    """
    wanted = frozenset(terms)
    if not wanted:
        return (), False
    lines = [line for part in (passage.title, passage.heading, passage.text) for line in _SENTENCE.split(part) if line]
    stems = [content(line) for line in lines]
    stuffed = _is_stuffed([stem for line in stems for stem in line], wanted)
    echoes = [_echoes(line, terms) for line in stems]
    orders = _instructions(lines)
    signs = [
        name for name, seen in (("stuffing", stuffed), ("echo", any(echoes)), ("instruction", any(orders))) if seen
    ]
    if not signs:
        return (), False
    bad = [echo or order or _is_list(line, wanted) for echo, order, line in zip(echoes, orders, stems, strict=True)]
    rest = {stem for line, out in zip(stems, bad, strict=True) if not out for stem in line}
    return tuple(signs), len(wanted & rest) < REST_COVERS * len(wanted)


def _is_stuffed(stems: Sequence[str], wanted: frozenset[str]) -> bool:
    longest = run = hits = 0
    for stem in stems:
        run = run + 1 if stem in wanted else 0
        hits += run > 0
        longest = max(longest, run)
    dense = len(stems) >= DENSITY_WORDS and hits >= DENSITY * len(stems)
    return dense or longest > max(RUN_FACTOR * len(wanted), RUN_LEAST)


def _is_list(stems: Sequence[str], wanted: frozenset[str]) -> bool:
    """Whether more than half of a sentence's words are the question's, and more than the question has."""
    hits = sum(stem in wanted for stem in stems)
    return hits > len(wanted) and 2 * hits > len(stems)


def _echoes(stems: Sequence[str], terms: Sequence[str]) -> bool:
    """Whether a sentence holds nearly all neighbouring pairs of the question's words."""
    pairs = set(pairwise(terms))
    if len(terms) < ECHO_TERMS or not pairs:
        return False
    return len(pairs & set(pairwise(stems))) >= ECHO * len(pairs)


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
