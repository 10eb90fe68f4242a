"""Team-draft interleaving: one list out of two rankings, whose clicks say which one is better. Pure.

Radlinski, Kurup, Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008: in each round a coin
decides who picks first, then each ranking adds its best result that is not there yet, and its team owns it. Results
that both rankings hold at the same place before anybody had to choose say nothing of either: the common prefix is
nobody's, and clicks on it are not credited.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Team = Literal["a", "b", ""]


@dataclass(frozen=True, slots=True)
class Draft:
    """`order` rows best first, all that both rankings hold; `teams` who put each there, "" = nobody."""

    order: tuple[int, ...]
    teams: tuple[Team, ...]


def team_draft(a: Sequence[int], b: Sequence[int], seed: int) -> Draft:
    """Interleave two orders of the same rows; the same seed makes the same list.

    Raises `ValueError` when the orders do not hold the same rows.
    """
    if len(a) != len(b) or set(a) != set(b):
        raise ValueError("both rankings order the same rows")
    shared = next((place for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
    order, teams = list(a[:shared]), list[Team]([""] * shared)
    taken, coin = set(order), np.random.default_rng(seed)
    heads: dict[Team, int] = {"a": shared, "b": shared}
    lists: dict[Team, Sequence[int]] = {"a": a, "b": b}
    while len(order) < len(a):
        first: tuple[Team, Team] = ("a", "b") if coin.random() < 0.5 else ("b", "a")
        for team in first:
            while heads[team] < len(a) and lists[team][heads[team]] in taken:
                heads[team] += 1
            if heads[team] < len(a):
                row = lists[team][heads[team]]
                order.append(row)
                teams.append(team)
                taken.add(row)
    return Draft(tuple(order), tuple(teams))


def credit(teams: Sequence[Team], clicked: Collection[int]) -> float:
    """Of one list: 1 when b's clicks are more, 0 when a's are, .5 when neither; `clicked` are places from 0."""
    gained = sum({"a": -1, "b": 1, "": 0}[teams[place]] for place in clicked if place < len(teams))
    return 0.5 + 0.5 * float(np.sign(gained))
