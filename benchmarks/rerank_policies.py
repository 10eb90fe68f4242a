"""Every way of spending cross-encoders that the adaptive policy is compared with, on logged full reranks. Pure.

An outcome is what one policy did on every question: nDCG@10, GFLOP and pairs. Scored candidates get
β·opinion + (1 − β)·fused, others (1 − β)·fused: calibration and β are learned on other sets, for both models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobs.calibration.fitting import calibrations, choose_blend
from jobs.calibration.logs import Logged
from services.reranking.calibration import Calibration
from services.reranking.facts import Costs, Role
from services.reranking.features import QUESTION

DEPTHS = (0, 5, 10, 20, 30, 50, 100)
CASCADES = ((20, 5), (20, 10), (50, 5), (50, 10), (50, 20), (100, 10), (100, 20), (100, 50))  # small, then large
ROUTER_RIDGE = 30.0

Float64 = npt.NDArray[np.float64]
Spent = list[tuple[Role, npt.NDArray[np.int64]]]  # which rows each model scored


@dataclass(frozen=True)
class Outcome:
    """quality, cost, pairs (q,) float64 of q questions in a fixed order."""

    name: str
    quality: Float64
    cost: Float64
    pairs: Float64

    @property
    def point(self) -> tuple[float, float]:
        """Mean cost and mean quality."""
        return float(self.cost.mean()), float(self.quality.mean())


@dataclass(frozen=True)
class Fitted:
    """What comparisons may know of other sets: a calibration and a blend by role."""

    calibration: Mapping[Role, Calibration]
    blend: Mapping[Role, float]

    @classmethod
    def of(cls, log: Sequence[Logged]) -> Fitted:
        """From labelled logs, with or without the small model's logits."""
        found = calibrations(log, {})
        blends: dict[Role, float] = {"large": choose_blend(log, found["large"]).blend}
        if all("small" in one.logits for one in log):
            blends["small"] = choose_blend([_as_large(one) for one in log], found["small"]).blend
        return cls(found, blends)


def joined(name: str, parts: Sequence[Outcome]) -> Outcome:
    """One outcome over the questions of several sets."""
    return Outcome(
        name,
        np.concatenate([one.quality for one in parts]),
        np.concatenate([one.cost for one in parts]),
        np.concatenate([one.pairs for one in parts]),
    )


def fixed(log: Sequence[Logged], fitted: Fitted, costs: Costs, role: Role, depth: int) -> Outcome:
    """The same model on the same number of candidates of every question."""
    rows = [_best(one, depth) for one in log]
    shown = [_scored(one, fitted, {role: some}) for one, some in zip(log, rows, strict=True)]
    spent: list[Spent] = [[(role, some)] for some in rows]
    return _outcome(f"{role}@{depth}", log, shown, spent, costs)


def cascade(log: Sequence[Logged], fitted: Fitted, costs: Costs, first: int, second: int) -> Outcome:
    """The small model on the best `first`, the large one on the best `second` of what comes out."""
    shown: list[npt.NDArray[np.int64]] = []
    spent: list[Spent] = []
    for one in log:
        wide = _best(one, first)
        by_small = _scored(one, fitted, {"small": wide})
        narrow = by_small[:second]
        shown.append(_scored(one, fitted, {"small": wide, "large": narrow}))
        spent.append([("small", wide), ("large", narrow)])
    return _outcome(f"small@{first} → large@{second}", log, shown, spent, costs)


def frontier(log: Sequence[Logged], fitted: Fitted, costs: Costs) -> list[Outcome]:
    """All fixed policies and cascades; without a small model those of the large one."""
    found = [fixed(log, fitted, costs, "large", depth) for depth in DEPTHS]
    if "small" not in fitted.blend:
        return found
    found += [fixed(log, fitted, costs, "small", depth) for depth in DEPTHS[1:]]
    return found + [cascade(log, fitted, costs, first, second) for first, second in CASCADES]


def gate(name: str, signal: Float64, none: Outcome, full: Outcome, budget: float) -> Outcome:
    """`full` for the questions with the smallest signal, until the mean cost reaches `budget`; `none` for the rest."""
    order = np.argsort(signal, kind="stable")
    affordable = np.cumsum(full.cost[order]) <= budget * len(order)
    chosen = np.zeros(len(order), bool)
    chosen[order[affordable]] = True
    return Outcome(
        name,
        np.where(chosen, full.quality, none.quality),
        np.where(chosen, full.cost, none.cost),
        np.where(chosen, full.pairs, none.pairs),
    )


def signals(log: Sequence[Logged], seed: int = 0) -> dict[str, Float64]:
    """By gate, (q,) small = rerank first: hard questions have small margins, flat scores, disagreeing legs."""
    asked = np.array([one.facts.question for one in log], np.float64)
    column = {name: asked[:, place] for place, name in enumerate(QUESTION)}
    return {
        "random": np.random.default_rng(seed).random(len(log)),
        "NQC": column["nqc"],
        "margin": column["margin_1"],
        "RBO": column["rbo"],
    }


def router(
    train: Sequence[tuple[Sequence[Logged], Sequence[Outcome]]],
    log: Sequence[Logged],
    arms: Sequence[Outcome],
    budget: float,
) -> Outcome:
    """A copy of arXiv 2606.25249: one of `arms` for a whole question, by its features alone.

    Ridge regression of each arm's nDCG on the question's features, learned on other sets; the arm with the largest
    prediction − μ · cost is taken, μ as small as keeps the mean cost within `budget` on these questions.
    """
    features, gains = _router_data(train)
    mean, spread = features.mean(0), features.std(0) + 1e-9
    design = np.column_stack([np.ones(len(features)), (features - mean) / spread])
    ridge = ROUTER_RIDGE * np.eye(design.shape[1])
    ridge[0, 0] = 0
    weights = np.linalg.solve(design.T @ design + ridge, design.T @ gains)
    asked = (np.array([one.facts.question for one in log], np.float64) - mean) / spread
    predicted = np.column_stack([np.ones(len(asked)), asked]) @ weights
    cost, rows = np.stack([arm.cost for arm in arms], axis=1), np.arange(len(log))
    choice = np.zeros(len(log), np.int64)
    for price in (0.0, *np.geomspace(1e-7, 1.0, 200)):
        choice = np.argmax(predicted - price * cost, axis=1)
        if cost[rows, choice].mean() <= budget:
            break
    picked = [np.stack([getattr(arm, name) for arm in arms], axis=1)[rows, choice] for name in ("quality", "pairs")]
    return Outcome("router (2606.25249)", picked[0], cost[rows, choice], picked[1])


def oracle(fixed_depths: Sequence[Outcome]) -> Outcome:
    """For each question the cheapest of the best of some fixed policies: what knowing the labels would give."""
    quality, cost, pairs = (
        np.stack([getattr(one, name) for one in fixed_depths], axis=1) for name in ("quality", "cost", "pairs")
    )
    best = quality >= quality.max(1, keepdims=True) - 1e-12
    choice = np.where(best, cost, np.inf).argmin(1)
    rows = np.arange(len(quality))
    return Outcome("oracle", quality[rows, choice], cost[rows, choice], pairs[rows, choice])


def saved(outcome: Outcome, others: Sequence[Outcome], slack: float = 0.002) -> float:
    """PSEQ: 1 − cost over that of the cheapest other that is at most `slack` worse; nan when none is."""
    equal = [one.cost.mean() for one in others if one.quality.mean() >= outcome.quality.mean() - slack]
    return 1.0 - float(outcome.cost.mean()) / float(min(equal)) if equal and min(equal) > 0 else float("nan")


def saved_interval(
    outcome: Outcome, others: Sequence[Outcome], groups: npt.NDArray[np.int64], rounds: int = 2_000
) -> tuple[float, float]:
    """95 % of the paired bootstrap of `saved`: questions are drawn anew within their set."""
    rng = np.random.default_rng(0)
    places = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    quality, cost = np.stack([one.quality for one in others]), np.stack([one.cost for one in others])
    found = []
    for _ in range(rounds):
        drawn = np.concatenate([rng.choice(some, len(some)) for some in places])
        mean, spent = quality[:, drawn].mean(1), cost[:, drawn].mean(1)
        equal = spent[mean >= outcome.quality[drawn].mean() - 0.002]
        if len(equal) and equal.min() > 0:
            found.append(1.0 - outcome.cost[drawn].mean() / equal.min())
    if not found:
        return float("nan"), float("nan")
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _router_data(train: Sequence[tuple[Sequence[Logged], Sequence[Outcome]]]) -> tuple[Float64, Float64]:
    asked = [[one.facts.question for one in log] for log, _ in train]
    gains = [np.stack([arm.quality for arm in arms], axis=1) for _, arms in train]
    return np.concatenate([np.array(some, np.float64) for some in asked]), np.concatenate(gains)


def _best(one: Logged, depth: int) -> npt.NDArray[np.int64]:
    return np.argsort(one.facts.rank)[:depth]


def _scored(one: Logged, fitted: Fitted, rows: Mapping[Role, npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """The order when these rows were scored, the large model's word over the small one's."""
    fused = one.facts.fused.astype(np.float64)
    blend = fitted.blend["large" if "large" in rows else "small"]
    score = (1 - blend) * fused
    roles: tuple[Role, ...] = ("small", "large")
    for role in roles:
        if role in rows:
            opinion = fitted.calibration[role].opinion(one.logits[role][rows[role]])
            score[rows[role]] = fitted.blend[role] * opinion + (1 - fitted.blend[role]) * fused[rows[role]]
    return np.lexsort((one.facts.rank, -score))


def _outcome(
    name: str,
    log: Sequence[Logged],
    shown: Sequence[npt.NDArray[np.int64]],
    spent: Sequence[Spent],
    costs: Costs,
) -> Outcome:
    def work(one: Logged, role: Role, rows: npt.NDArray[np.int64]) -> float:
        return float(costs.tables[role].of(one.facts.tokens[rows]).sum())

    return Outcome(
        name,
        np.array([one.quality(order) for one, order in zip(log, shown, strict=True)]),
        np.array([sum(work(one, role, rows) for role, rows in parts) for one, parts in zip(log, spent, strict=True)]),
        np.array([float(sum(len(rows) for _, rows in parts)) for parts in spent]),
    )


def _as_large(one: Logged) -> Logged:
    """The small model in the large one's place, so that a blend is chosen for it in the same way."""
    return Logged(
        one.query_id, one.source, one.language, one.facts, {"large": one.logits["small"]}, one.documents, one.chunks,
        one.grades, one.ideal,
    )  # fmt: skip
