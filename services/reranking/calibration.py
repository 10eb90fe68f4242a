"""From a cross-encoder's raw logit to the probability that the passage is relevant. Pure.

    p = σ(a · log σ(z) + b · log(1 + e^z) + c),  a, b ≥ 0

Beta calibration (Kull, Silva Filho, Flach: "Beta calibration", AISTATS 2017) of s = σ(z): `a` is the slope where
the model says no, `b` where it says yes, and a = b is Platt's scaling. Both slopes are held ≥ 0, so the map never
changes an order. Few labels cannot pay for three parameters: the slopes are drawn to each other and to a prior by
a ridge that is worth PRIOR_PAIRS pairs, so that one labelled question moves little and a thousand decide alone.
The *opinion* is the same at even odds, σ(log-odds − base), base the log-odds of relevance among the pairs of the fit:
of a hundred candidates one or two are relevant, so p alone would lie far below fused scores, which reach from 0 to 1.
How well the family fits is checked against isotonic regression, the best monotone map in hindsight: `misfit`.

ECE: the mean of |mean probability − share of relevant| over BINS bins of equally many pairs, weighted by their
pairs (Nixon et al. 2019; bins of equal width would hold nearly everything in the first, as most pairs are irrelevant).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.contracts import Float32

BINS = 15
PRIOR_PAIRS = 20.0
_ROUNDS = 100
_TINY = 1e-9

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """See the module. `pairs` and `positives` it was fitted on; 0 = nothing fitted, plain σ.

    `base` is the log-odds of relevance among those pairs. `misfit` is the mean log-loss in nats a pair that isotonic
    regression saves on the same pairs, ≥ 0.
    """

    low: float = 1.0
    high: float = 1.0
    bias: float = 0.0
    pairs: int = 0
    positives: int = 0
    misfit: float = 0.0
    base: float = 0.0

    def probability(self, logits: npt.ArrayLike) -> Float32:
        """Same shape, float32 in (0, 1), never falling in the logit; NaN stays NaN."""
        return _sigmoid(self.log_odds(logits)).astype(np.float32)

    def opinion(self, logits: npt.ArrayLike) -> Float32:
        """Same shape, float32 in (0, 1): the probability at even odds, see the module."""
        return _sigmoid(self.log_odds(logits) - self.base).astype(np.float32)

    def log_odds(self, logits: npt.ArrayLike) -> Float64:
        """Same shape, float64: the logit of `probability`, without its rounding."""
        z = np.asarray(logits, np.float64)
        softplus = _softplus(z)
        # Element by element, not by BLAS, whose sums depend on the machine's threads.
        value: Float64 = self.low * (z - softplus) + self.high * softplus + self.bias
        return value

    def to_json(self) -> dict[str, Any]:
        """For a profile."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Calibration:
        """What `to_json` wrote; None is plain σ."""
        return cls(**value) if value else cls()


def fit_calibration(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    prior: Calibration | None = None,
) -> Calibration:
    """Maximum penalised likelihood over n pairs.

    logits (n,) raw; labels (n,) in [0, 1], 1 = relevant (a grade over the highest grade will do); weights (n,) ≥ 0,
    1 where none are given. Pairs with a NaN logit are left out. Without a pair the prior comes back.
    """
    known = prior or Calibration()
    z = np.asarray(logits, np.float64).ravel()
    kept = np.isfinite(z)
    y = np.asarray(labels, np.float64).ravel()[kept]
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64).ravel()[kept]
    z = z[kept]
    if not len(z) or w.sum() <= 0:
        return known
    found = _fit(_design(z), y, w, known)
    p = _sigmoid(_design(z) @ found)
    spared = (log_loss(p, y, w) - log_loss(isotonic(z, y, w), y, w)) if len(z) > 1 else 0.0
    return Calibration(
        low=float(found[0]),
        high=float(found[1]),
        bias=float(found[2]),
        pairs=len(z),
        positives=int((y > 0).sum()),
        misfit=max(0.0, float(spared)),
        base=_base(y, w, known.base),
    )


def ece(probability: npt.ArrayLike, labels: npt.ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1], see the module; 0 without a pair. Equal probabilities share a bin."""
    said, true, size = reliability(probability, labels, bins)
    return float(np.average(np.abs(said - true), weights=size)) if len(said) else 0.0


def reliability(
    probability: npt.ArrayLike, labels: npt.ArrayLike, bins: int = BINS
) -> tuple[Float64, Float64, Float64]:
    """The calibration curve: (mean probability, share of relevant, pairs) of each bin, by rising probability."""
    p = np.asarray(probability, np.float64).ravel()
    kept = np.isfinite(p)
    p, y = p[kept], np.asarray(labels, np.float64).ravel()[kept]
    if not len(p):
        return np.empty(0), np.empty(0), np.empty(0)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, p, side="left")
    size = np.bincount(place).astype(np.float64)
    filled = size > 0
    said = np.bincount(place, p)[filled] / size[filled]
    true = np.bincount(place, y)[filled] / size[filled]
    return said, true, size[filled]


def isotonic(logits: Float64, labels: Float64, weights: Float64 | None = None) -> Float64:
    """(n,) the best never-falling map of the logits to the labels in squares: pool adjacent violators."""
    w = np.ones(len(logits)) if weights is None else weights
    _, group = np.unique(logits, return_inverse=True)
    mass = np.bincount(group, w)
    mean = np.bincount(group, w * labels) / np.maximum(mass, _TINY)
    levels: list[list[float]] = []  # [mean, mass, distinct logits]
    for value, heft in zip(mean.tolist(), mass.tolist(), strict=True):
        levels.append([value, heft, 1])
        while len(levels) > 1 and levels[-2][0] >= levels[-1][0]:
            right, left = levels.pop(), levels.pop()
            total = left[1] + right[1]
            pooled = (left[0] * left[1] + right[0] * right[1]) / max(total, _TINY)
            levels.append([pooled, total, left[2] + right[2]])
    spread = np.repeat([level[0] for level in levels], [int(level[2]) for level in levels])
    return np.asarray(spread, np.float64)[group]


def log_loss(probability: Float64, labels: Float64, weights: Float64) -> float:
    """Weighted mean of −y·log p − (1 − y)·log(1 − p), in nats."""
    p = np.clip(probability, _TINY, 1 - _TINY)
    return float(np.average(-labels * np.log(p) - (1 - labels) * np.log1p(-p), weights=weights))


def _base(labels: Float64, weights: Float64, prior: float) -> float:
    """Log-odds of the share of relevant ones, drawn to the prior's by PRIOR_PAIRS more pairs of its share."""
    relevant = float(weights @ labels) + PRIOR_PAIRS * 1.0 / (1.0 + math.exp(-prior))
    irrelevant = float(weights.sum()) + PRIOR_PAIRS - relevant
    return math.log(relevant / irrelevant)


def _design(z: Float64) -> Float64:
    """(…, 3): log σ(z), log(1 + e^z), 1."""
    softplus = _softplus(z)
    return np.stack([z - softplus, softplus, np.ones_like(z)], axis=-1)


def _softplus(z: Float64) -> Float64:
    value: Float64 = np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))
    return value


def _fit(design: Float64, y: Float64, w: Float64, prior: Calibration) -> Float64:
    """(3,) weights; a slope that would fall below 0 is held there and the others are fitted again."""
    free = np.ones(3, bool)
    start = np.array([prior.low, prior.high, prior.bias])
    while True:
        found = _newton(design, y, w, start, free)
        below = free & np.array([found[0] < 0, found[1] < 0, False])
        if not below.any():
            return found
        free &= ~below


def _newton(design: Float64, y: Float64, w: Float64, centre: Float64, free: npt.NDArray[np.bool_]) -> Float64:
    # The ridge on (low − prior), (high − prior), (bias − prior) and on (low − high) − (prior low − prior high).
    tie = np.array([1.0, -1.0, 0.0])
    ridge = PRIOR_PAIRS * (np.diag([0.25, 0.25, 0.05]) + 0.25 * np.outer(tie, tie))
    weights = np.where(free, centre, 0.0)
    value = _objective(design, y, w, weights, centre, ridge)
    for _ in range(_ROUNDS):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (w * (p - y)) + ridge @ (weights - centre)
        curvature = (design * (w * p * (1 - p))[:, None]).T @ design + ridge
        step = np.zeros(3)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        scale = 1.0
        while (after := _objective(design, y, w, weights - scale * step, centre, ridge)) > value and scale > 1e-6:
            scale /= 2
        weights, value = weights - scale * step, after
        if float(np.abs(scale * step).max()) < 1e-8:
            break
    return weights


def _objective(design: Float64, y: Float64, w: Float64, weights: Float64, centre: Float64, ridge: Float64) -> float:
    score = design @ weights
    away = weights - centre
    return float(w @ (np.logaddexp(0.0, score) - y * score) + away @ ridge @ away / 2)


def _sigmoid(score: Float64) -> Float64:
    value: Float64 = 1.0 / (1.0 + np.exp(-np.clip(score, -500, 500)))
    return value
