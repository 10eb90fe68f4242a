"""Mined questions → groups of one positive and its negatives, in an order that a seed decides. Pure.

Negatives of a group: HARD of the fused ranks `hard`, MEDIUM from behind them, RANDOM from the whole corpus; what a
source lacks is made up at random. Up to half of the hard ones are what users refused, the worst most often: not all,
for a user may pass over an answer. Sources are mixed by shares, so that a large one does not drown the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.training.mining import Mined
from jobs.training.pairs import Ids, PairBuilder, rarity, window
from tenants.errors import InvalidInput

Float32 = npt.NDArray[np.float32]

MAX_QUESTION = 64
OTHER_POSITIVE = 0.3  # how often a document's second-best chunk stands for it


@dataclass(frozen=True, slots=True)
class Mix:
    """A group's negatives by kind, and the fused ranks (1-based, inclusive) that count as hard."""

    hard: int = 5
    medium: int = 1
    random: int = 1
    ranks: tuple[int, int] = (5, 60)

    @property
    def size(self) -> int:
        """Candidates of a group, its positive included."""
        return 1 + self.hard + self.medium + self.random


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a pair at most: `short`, but `long` in `long_share` of the groups."""

    short: int = 128
    long: int = 256
    long_share: float = 0.2


@dataclass(frozen=True, slots=True)
class Group:
    """One question with its candidates, the positive first; `taught` a teacher's logits of them, NaN = not scored.

    `weight` is what the group counts in the loss.
    """

    question: Ids
    passages: tuple[Ids, ...]
    taught: tuple[float, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Pool:
    """One source, tokenised. `positives` and `rankings` hold rows of `passages`; `free` the rows not reserved.

    `taught` {row: a teacher's logit} of each question; empty = no teacher at all. `refused` rows that users did not
    want, worst first, and `weights`, of each question; empty = none, and 1.
    """

    name: str
    questions: list[Ids]
    passages: list[Ids]
    positives: list[list[int]]
    rankings: list[list[int]]
    free: npt.NDArray[np.int64]
    rarity: Float32 = field(repr=False)
    taught: list[dict[int, float]] = field(default_factory=list)
    refused: list[list[int]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def pool_of(mined: Mined, builder: PairBuilder) -> Pool:
    """Tokenise the training questions of a mined source. Raises `InvalidInput` when there is none."""
    rows = [row for row in mined.questions.to_pylist() if row["split"] == "train" and row["positives"]]
    if not rows:
        raise InvalidInput(f"{mined.name} has no training question with a relevant passage; give labelled questions")
    passages = builder.texts(mined.passages["text"].to_pylist())
    return Pool(
        name=mined.name,
        questions=builder.texts([row["text"] for row in rows]),
        passages=passages,
        positives=[row["positives"] for row in rows],
        rankings=[row["ranking"] for row in rows],
        free=np.flatnonzero(~np.array(mined.passages["reserved"].to_pylist(), dtype=bool)),
        rarity=rarity(passages),
        taught=[_taught(row) for row in rows] if any(row["taught"] for row in rows) else [],
        refused=[row["refused"] for row in rows],
        weights=[row["weight"] for row in rows],
    )


def _taught(row: Mapping[str, Any]) -> dict[int, float]:
    places = [*row["positives"], *row["ranking"]]
    return dict(zip(places, row["taught"], strict=True)) if row["taught"] else {}


def negatives(
    ranking: Sequence[int],
    free: npt.NDArray[np.int64],
    taken: set[int],
    mix: Mix,
    chance: np.random.Generator,
    refused: Sequence[int] = (),
) -> list[int]:
    """Rows of the negatives of one group, all different, none of `taken` (the relevant ones)."""
    low, high = mix.ranks
    picked = _worst(refused, (mix.hard + 1) // 2, chance)
    hard = [row for row in ranking[low - 1 : high] if row not in picked]
    picked += _some(hard, mix.hard - len(picked), chance)
    picked += _some([row for row in ranking[high:] if row not in picked], mix.medium, chance)
    known = taken | set(picked)
    for _ in range(50 * mix.size):
        if len(picked) == mix.size - 1 or not len(free):
            break
        row = int(free[chance.integers(len(free))])
        if row not in known:
            picked.append(row)
            known.add(row)
    return picked


class Sampler:
    """Endless groups. The same seed and number give the same group, so that a resumed run sees what comes next.

    Sources take turns by the square root of their questions: a large one leads, it does not drown the others.
    """

    def __init__(self, pools: Sequence[Pool], mix: Mix, lengths: Lengths, frame_size: int, seed: int) -> None:
        self._pools = pools
        self._mix = mix
        self._lengths = lengths
        self._frame_size = frame_size
        self._seed = seed
        sizes = [len(pool.questions) for pool in pools]
        self._cycle = _turns(np.sqrt(sizes))
        self._orders = [np.random.default_rng([seed, size]).permutation(size) for size in sizes]

    def groups(self, first: int, count: int) -> list[Group]:
        """Groups number `first` to `first + count`; a source's questions all come once before one comes again."""
        return [self._group(number) for number in range(first, first + count)]

    def _group(self, number: int) -> Group:
        chance = np.random.default_rng([self._seed, number])
        pool, row = self._question(number)
        positives = pool.positives[row]
        best = positives[int(chance.integers(len(positives)))] if chance.random() < OTHER_POSITIVE else positives[0]
        refused = pool.refused[row] if pool.refused else ()
        rows = [best, *negatives(pool.rankings[row], pool.free, set(positives), self._mix, chance, refused)]
        question = pool.questions[row][:MAX_QUESTION]
        most = self._lengths.long if chance.random() < self._lengths.long_share else self._lengths.short
        room = max(1, most - self._frame_size - len(question))
        taught = tuple(pool.taught[row].get(one, math.nan) for one in rows) if pool.taught else ()
        texts = tuple(window(question, pool.passages[one], room, pool.rarity) for one in rows)
        return Group(question, texts, taught, pool.weights[row] if pool.weights else 1.0)

    def _question(self, number: int) -> tuple[Pool, int]:
        rounds, place = divmod(number, len(self._cycle))
        kind = self._cycle[place]
        turn = rounds * self._cycle.count(kind) + self._cycle[:place].count(kind)
        return self._pools[kind], int(self._orders[kind][turn % len(self._orders[kind])])


def _turns(weights: npt.NDArray[np.float64], length: int = 100) -> list[int]:
    """Smooth weighted round robin: `length` turns in which everyone's share is its weight's, within one turn."""
    share, credit, turns = weights / weights.sum(), np.zeros(len(weights)), list[int]()
    for _ in range(length):
        credit += share
        turns.append(int(np.argmax(credit)))
        credit[turns[-1]] -= 1
    return turns


def _worst(rows: Sequence[int], count: int, chance: np.random.Generator) -> list[int]:
    """At most `count` different ones, the first most likely: chances are as 1 : 1/2 : 1/3, and so on."""
    if not rows:
        return []
    odds = 1.0 / np.arange(1, len(rows) + 1)
    places = chance.choice(len(rows), min(count, len(rows)), replace=False, p=odds / odds.sum())
    return [int(rows[place]) for place in places]


def _some(rows: Sequence[int], count: int, chance: np.random.Generator) -> list[int]:
    return [int(rows[place]) for place in chance.permutation(len(rows))[:count]]
