"""What users did with what they were shown, as labels: answers, passages that were passed over, weights. Pure.

A mark counts for a chunk that its question's audit record shows, once per showing; whatever else it names is ignored.
Showings of the same question (upper or lower case, spaces) add up:

    positives   chunks that more showings call relevant than irrelevant; without any, those that were clicked, each with
                Σ clicks · weight(rank) / times shown, an estimate of r_qd in [0, CLIP] (see `propensity`)
    refused     what more showings call irrelevant, then what was shown above a clicked chunk, or next below the last
                one, and never clicked, by rank: "click > skip above" and "click > no-click next" (Joachims, "Optimizing
                search engines using clickthrough data", KDD 2002; Joachims et al., "Accurately interpreting
                clickthrough data as implicit feedback", SIGIR 2005)
    unsure      clicked or called relevant, but no positive: no negative either
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from jobs.training.propensity import Examination, Seen, estimate

Kind = Literal["search", "answer"]  # a page of results is looked at otherwise than an answer's evidence
KINDS: tuple[Kind, ...] = ("search", "answer")
MARKS = ("clicked", "relevant", "irrelevant")


@dataclass(slots=True)
class Showing:
    """One question as it was answered once: chunk ids best first, and the 1-based ranks that were marked."""

    question: str
    shown: tuple[str, ...]
    kind: Kind = "search"
    clicked: set[int] = field(default_factory=set)
    relevant: set[int] = field(default_factory=set)
    irrelevant: set[int] = field(default_factory=set)

    def mark(self, body: Mapping[str, Any]) -> None:
        """Take in one feedback of it; saying a thing twice says it once."""
        ranks = {chunk: rank for rank, chunk in enumerate(self.shown, start=1)}
        for name in MARKS:
            getattr(self, name).update(ranks[chunk] for chunk in body.get(name) or () if chunk in ranks)

    def skipped(self) -> Iterator[int]:
        """Ranks above the last click, and the one below it, that were not clicked."""
        last = max(self.clicked, default=-1)
        return (rank for rank in range(1, min(last + 1, len(self.shown)) + 1) if rank not in self.clicked)


def showing_of(record: Mapping[str, Any]) -> Showing | None:
    """An audit record as a showing; None when its text was erased or has expired, or nothing was shown."""
    text, shown = record.get("texts", {}).get("query"), record.get("evidence")
    if not text or not shown:
        return None
    return Showing(text, tuple(map(sys.intern, shown)), "answer" if record.get("answer") else "search")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What is known of one question, see the module; `positives` {chunk: weight}, best first.

    `clicks` says that the positives are clicked ones; weights of those that were called relevant are 1.
    """

    text: str
    positives: Mapping[str, float]
    refused: tuple[str, ...] = ()
    unsure: frozenset[str] = frozenset()
    clicks: bool = False


@dataclass(slots=True)
class _Tally:
    """One question's sums; `ranks` {clicked chunk: {(kind, rank): [times shown, clicks]}}."""

    text: str
    relevant: Counter[str] = field(default_factory=Counter)
    irrelevant: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, int] = field(default_factory=dict)
    ranks: dict[str, dict[tuple[Kind, int], list[int]]] = field(default_factory=dict)


class Ledger:
    """All showings of every question that somebody gave feedback on."""

    def __init__(self, judged: Iterable[Showing]) -> None:
        showings = list(judged)
        self._tallies: dict[str, _Tally] = {}
        for one in showings:
            self._mark(one, self._tallies.setdefault(question_key(one.question), _Tally(one.question)))
        for one in showings:
            self.count(one)

    @property
    def clicks(self) -> bool:
        """Whether anything was clicked."""
        return any(tally.ranks for tally in self._tallies.values())

    def count(self, showing: Showing) -> None:
        """Count where clicked chunks stood, once per showing: in one without feedback, too.

        Without those, a chunk that nobody clicks at rank 8 would never be seen there.
        """
        tally = self._tallies.get(question_key(showing.question))
        if tally is None or not tally.ranks:
            return
        for rank, chunk in enumerate(showing.shown, start=1):
            if chunk in tally.ranks:
                cell = tally.ranks[chunk].setdefault((showing.kind, rank), [0, 0])
                cell[0] += 1
                cell[1] += rank in showing.clicked

    def examination(self) -> dict[Kind, Examination]:
        """How likely a rank is looked at, in pages of results and in answers."""
        return {kind: estimate(self._seen(kind)) for kind in KINDS}

    def opinions(self, looks: Mapping[Kind, Examination]) -> list[Opinion]:
        """Of every question that has a positive, in the order of the first feedback."""
        found = (_opinion(tally, looks) for tally in self._tallies.values())
        return [opinion for opinion in found if opinion.positives]

    @staticmethod
    def _mark(showing: Showing, tally: _Tally) -> None:
        tally.relevant.update(showing.shown[rank - 1] for rank in showing.relevant)
        tally.irrelevant.update(showing.shown[rank - 1] for rank in showing.irrelevant)
        for rank in showing.skipped():
            chunk = showing.shown[rank - 1]
            tally.skipped[chunk] = min(rank, tally.skipped.get(chunk, rank))
        for rank in sorted(showing.clicked):
            tally.ranks.setdefault(showing.shown[rank - 1], {})

    def _seen(self, kind: Kind) -> Seen:
        chunks = (ranks for tally in self._tallies.values() for ranks in tally.ranks.values())
        rows = [
            (item, rank, *cell)
            for item, ranks in enumerate(chunks)
            for (of_kind, rank), cell in ranks.items()
            if of_kind == kind
        ]
        return Seen(*np.array(rows, np.int64).reshape(-1, 4).T)


def question_key(text: str) -> str:
    """The same for questions that only differ in case and spaces."""
    return " ".join(text.lower().split())


def _opinion(tally: _Tally, looks: Mapping[Kind, Examination]) -> Opinion:
    relevant = [chunk for chunk, votes in tally.relevant.most_common() if votes > tally.irrelevant[chunk]]
    irrelevant = [chunk for chunk, votes in tally.irrelevant.most_common() if votes > tally.relevant[chunk]]
    clicked = {chunk: _worth(cells, looks) for chunk, cells in tally.ranks.items() if chunk not in irrelevant}
    best = sorted(clicked, key=lambda chunk: -clicked[chunk])
    positives = dict.fromkeys(relevant, 1.0) or {chunk: clicked[chunk] for chunk in best}
    liked = {*tally.relevant, *tally.ranks} - {*irrelevant}
    passed = sorted(tally.skipped.keys() - liked - {*tally.irrelevant}, key=lambda chunk: (tally.skipped[chunk], chunk))
    unsure = frozenset((liked | {*tally.irrelevant}) - positives.keys() - {*irrelevant})
    return Opinion(tally.text, positives, (*irrelevant, *passed), unsure, not relevant)


def _worth(cells: Mapping[tuple[Kind, int], list[int]], looks: Mapping[Kind, Examination]) -> float:
    """Σ clicks · weight / Σ shown."""
    shown = sum(cell[0] for cell in cells.values())
    return sum(cell[1] * looks[kind].weight(rank) for (kind, rank), cell in cells.items()) / shown
