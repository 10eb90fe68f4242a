"""What the comparison adds up to: points, savings with their interval, certificates on random splits, errors. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from benchmarks.rerank_policies import Outcome, saved
from jobs.calibration.certifying import Replayed
from services.reranking.certificate import fixed_sequence

SPLITS = 200
DELTA = 0.1

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Validity:
    """Over random halves: share of splits whose test half loses more than `alpha` at the certified price.

    price, risk, kept: means over splits of the certified λ, of the test half's loss there, and of the share of the
    full rerank's cost that is still spent.
    """

    alpha: float
    violations: float
    price: float
    risk: float
    kept: float


def validity(replayed: Replayed, alpha: float, risk: str = "regret", splits: int = SPLITS) -> Validity:
    """Learn-then-Test on one half, the loss on the other, `splits` times."""
    table = replayed.losses[risk]
    count, rng = len(table), np.random.default_rng(0)
    rows = []
    for _ in range(splits):
        drawn = rng.permutation(count)
        learn, test = drawn[: count // 2], drawn[count // 2 :]
        passed = fixed_sequence({risk: table[learn]}, {risk: alpha}, DELTA).passed
        place = max(0, passed - 1)  # price 0 is the reference: it needs no certificate
        loss = float(table[test, place].mean())
        kept = float(replayed.work[test, place].sum() / replayed.full_work[test].sum())
        rows.append((loss > alpha, replayed.prices[place], loss, kept))
    found = np.array(rows, np.float64).mean(0)
    return Validity(alpha, *(float(value) for value in found))


def joined_replays(parts: Sequence[Replayed]) -> Replayed:
    """The questions of several sets, at the same prices."""
    names = ("quality", "first", "full", "pairs", "work", "full_pairs", "full_work")
    merged = {name: np.concatenate([getattr(one, name) for one in parts]) for name in names}
    losses = {name: np.concatenate([one.losses[name] for one in parts]) for name in parts[0].losses}
    return Replayed(prices=parts[0].prices, losses=losses, **merged)


def figure_of(curves: Mapping[str, Sequence[tuple[float, float]]], points: Mapping[str, tuple[float, float]]) -> Figure:
    """nDCG@10 against GFLOP a question: lines by name, single points by name."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for name, line in curves.items():
        axes.plot([cost for cost, _ in line], [quality for _, quality in line], marker=".", label=name)
    for name, (cost, quality) in points.items():
        axes.scatter([cost], [quality], s=28, label=name)
    axes.set_xscale("symlog", linthresh=1)
    axes.set(xlabel="GFLOP a question (cold cache)", ylabel="nDCG@10, mean over sets")
    axes.legend(fontsize=8)
    return figure


def macro(parts: Sequence[Outcome]) -> tuple[float, float, float]:
    """(cost, quality, pairs), every set weighing alike."""
    rows = [(one.cost.mean(), one.quality.mean(), one.pairs.mean()) for one in parts]
    cost, quality, pairs = np.array(rows).mean(0)
    return float(cost), float(quality), float(pairs)


def reweighted(parts: Sequence[Outcome], sizes: Sequence[int]) -> Outcome:
    """The joined outcome, each set repeated to the same number of questions: plain means are macro means."""
    most = max(sizes)
    rows = [np.resize(np.arange(size), most) for size in sizes]
    return Outcome(
        parts[0].name,
        np.concatenate([one.quality[some] for one, some in zip(parts, rows, strict=True)]),
        np.concatenate([one.cost[some] for one, some in zip(parts, rows, strict=True)]),
        np.concatenate([one.pairs[some] for one, some in zip(parts, rows, strict=True)]),
    )


def best_saving(curve: Sequence[Outcome], others: Sequence[Outcome]) -> list[float]:
    """PSEQ at every price of a curve."""
    return [saved(one, others) for one in curve]
