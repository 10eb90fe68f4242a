"""Predicts what the large cross-encoder would say of every candidate, and learns from each batch that it did say. Pure.

    z(t_i) = w·[1, rows_i, question] + u_i·a + ε_i     a ~ N(0, Ω) once per question, ε_i per candidate, deviation σ
    y(s_i) = offset + slope·z(t_i) + η_i               the small model's logit s_i, η_i of deviation ρ

t_i is the large model's raw logit; z and y map a model's logits to the quantiles of a standard logistic by their rank
among all logged ones, since logits are no bell curve: a thousand noes and, far above, a few yeses. u_i = [1, fused_i]:
how hard this question is, and how far the first stage can be trusted on it. Given logits, `a` has a Gaussian posterior
in closed form (Bayesian linear regression; Bishop, PRML, 3.3) with residuals clipped at CLIP σ: one yes says little of
the others. A large logit settles its own candidate, a small one shrinks towards it. What remains open is logistic:
`chance` gives the probability of each of a few levels of logits, tails included. Fitted by expectation–maximisation for
a linear mixed model (Laird, Ware 1982) on logged full reranks; needs no labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from services.contracts import Float32
from services.reranking.facts import ROLES, Facts, Float64, Role

RIDGE = 10.0
ROUNDS = 40
CLIP = 1.5
# Where the levels of logits part, as quantiles of all logged ones: finer where the yeses are.
PARTS = (0.3, 0.6, 0.8, 0.88, 0.93, 0.96, 0.98, 0.99, 0.995)
KNOTS = (0.001, 0.01, 0.03, 0.1, 0.2, *PARTS, 0.998, 0.9995)

_LOGISTIC = 3**0.5 / np.pi  # a standard logistic over its deviation


class Logs(Protocol):
    """One logged full rerank: jobs/calibration/logs.py's `Logged`, as far as fitting needs it."""

    @property
    def facts(self) -> Facts:
        """The question before any pair was scored."""
        ...

    @property
    def logits(self) -> Mapping[Role, Float32]:
        """(n,) by role; NaN where a pair was not scored."""
        ...


@dataclass(frozen=True, slots=True)
class Prior:
    """Before any logit: mean (n,) float64 of z, and effects (n, d) float64, the rows u_i."""

    mean: Float64
    effects: Float64


@dataclass(frozen=True, slots=True)
class Belief:
    """mean and spread (n,) float64 of z(t_i); spread 0 = known.

    informed (n,) float64: the deviation of that mean once the small model will have spoken; 0 where it cannot help.
    """

    mean: Float64
    spread: Float64
    informed: Float64


@dataclass(frozen=True, slots=True)
class Scale:
    """One model's logits as standard logistic quantiles: `logits` (k,) ascending stand for `values` (k,)."""

    logits: Float64
    values: Float64

    def of(self, logits: npt.ArrayLike) -> Float64:
        """Interpolated; beyond the ends by the last slope. NaN stays NaN."""
        x = np.asarray(logits, np.float64)
        inside = np.interp(x, self.logits, self.values)
        low = self.values[0] + (x - self.logits[0]) * _slope(self, 0)
        high = self.values[-1] + (x - self.logits[-1]) * _slope(self, -2)
        return np.where(x < self.logits[0], low, np.where(x > self.logits[-1], high, inside))


@dataclass(frozen=True, slots=True)
class Predictor:
    """See the module. `levels` (m,) logits stand for the parts between `edges` (m − 1,), which are on z's scale."""

    center: Float64
    scale: Float64
    weights: Float64
    omega: Float64
    noise: float
    large: Scale
    small: Scale
    offset: float
    slope: float
    small_noise: float
    edges: Float64
    levels: Float64

    def prior(self, facts: Facts) -> Prior:
        """Before any pair is scored."""
        standard = (_design(facts) - self.center) / self.scale
        # Element by element, not by BLAS, whose sums depend on the machine's threads.
        mean = self.weights[0] + (standard * self.weights[1:]).sum(1)
        return Prior(mean, _effects(facts))

    def posterior(self, prior: Prior, large: Float64, small: Float64) -> Belief:
        """Given what was said so far: large.of and small.of the logits, (n,) float64 each, NaN = not scored."""
        known, hinted = np.isfinite(large), np.isfinite(small)
        hinted &= ~known
        told = known | hinted
        rho, sigma = (self.small_noise / self.slope) ** 2, self.noise**2
        said = np.where(known, large, (small - self.offset) / self.slope)
        residual = np.where(told, said - prior.mean, 0.0)
        variance = np.where(hinted, sigma + rho, sigma)
        bound = CLIP * np.sqrt(variance)
        clipped = np.minimum(np.maximum(residual, -bound), bound)
        effect, covariance = _effect(prior.effects, clipped, told / variance, self.omega)
        drift = (prior.effects * effect).sum(1)
        ones, fused = prior.effects[:, 0], prior.effects[:, 1]
        doubt = covariance[0, 0] * ones + 2 * covariance[0, 1] * fused + covariance[1, 1] * fused**2
        trust = np.where(hinted, sigma / (sigma + rho), 0.0)
        left = np.where(known, 0.0, sigma * (1 - trust) + (1 - trust) ** 2 * doubt)
        mean = np.where(known, said, prior.mean + drift + trust * (residual - drift))
        return Belief(mean, np.sqrt(left), np.where(told, 0.0, left / np.sqrt(left + rho)))

    def chance(self, mean: Float64, spread: Float64) -> Float64:
        """(…, m) probability of each level, where z is logistic with this mean and deviation, both (…)."""
        far = (self.edges - mean[..., None]) / (_LOGISTIC * np.maximum(spread, 1e-6))[..., None]
        below = 1.0 / (1.0 + np.exp(np.minimum(-far, 700.0)))
        parts = np.empty((*below.shape[:-1], below.shape[-1] + 1))
        parts[..., 0], parts[..., -1] = below[..., 0], 1.0 - below[..., -1]
        parts[..., 1:-1] = below[..., 1:] - below[..., :-1]
        return parts

    def to_json(self) -> dict[str, Any]:
        """Numbers and lists."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Predictor:
        """What `to_json` wrote."""
        read: dict[str, Any] = {name: np.array(one) if isinstance(one, list) else one for name, one in value.items()}
        for role in ROLES:
            read[role] = Scale(np.array(value[role]["logits"]), np.array(value[role]["values"]))
        return cls(**read)


def _plain(value: Any) -> Any:
    if isinstance(value, Scale):
        return {"logits": value.logits.tolist(), "values": value.values.tolist()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _slope(scale: Scale, at: int) -> float:
    run = float(scale.logits[at + 1] - scale.logits[at])
    return float(scale.values[at + 1] - scale.values[at]) / run if run > 0 else 0.0


def fit(logs: Sequence[Logs]) -> Predictor:
    """Of at least one question with a scored pair; small logits may be missing everywhere. Raises `ValueError`."""
    scored = [(one, np.isfinite(one.logits["large"])) for one in logs]
    if not any(known.any() for _, known in scored):
        raise ValueError("no pair was scored by the large model, so there is nothing to fit")
    logits = np.concatenate([one.logits["large"][known] for one, known in scored]).astype(np.float64)
    large = _scale(logits)
    designs = [_design(one.facts)[known] for one, known in scored]
    center, scale = _standard(np.concatenate(designs))
    standard = [np.column_stack([np.ones(len(one)), (one - center) / scale]) for one in designs]
    targets = [large.of(one.logits["large"][known]) for one, known in scored]
    weights, omega, noise = _mixed(standard, targets, [_effects(one.facts)[known] for one, known in scored])
    parts = np.quantile(logits, PARTS)
    levels = np.array([_middle(logits, low, high) for low, high in pairwise([-np.inf, *parts, np.inf])])
    small, offset, slope, small_noise = _relation(logs, large, noise)
    return Predictor(
        center, scale, weights, omega, noise, large, small, offset, slope, small_noise, large.of(parts), levels
    )


def _scale(logits: Float64) -> Scale:
    """Knots at KNOTS of the logits; equal ones are kept apart by a hair, so that the map never stands still."""
    at = np.quantile(logits, KNOTS) + 1e-6 * np.arange(len(KNOTS))
    return Scale(at, np.log(KNOTS) - np.log1p(-np.array(KNOTS)))


def _middle(logits: Float64, low: float, high: float) -> float:
    inside = logits[(logits > low) & (logits <= high)]
    return float(inside.mean()) if len(inside) else float(np.clip(logits.mean(), low, high))


def _design(facts: Facts) -> Float64:
    """(n, R + Q): the rows, and the question's features beside each."""
    beside = np.broadcast_to(facts.question, (len(facts.fused), len(facts.question)))
    return np.concatenate([facts.rows, beside], axis=1).astype(np.float64)


def _effects(facts: Facts) -> Float64:
    return np.stack([np.ones(len(facts.fused)), facts.fused.astype(np.float64)], axis=1)


def _effect(effects: Float64, residual: Float64, precision: Float64, omega: Float64) -> tuple[Float64, Float64]:
    """Mean (2,) and covariance (2, 2) of a: (Ω⁻¹ + Σ uuᵀ/v)⁻¹, written out so that every machine rounds alike."""
    heft = effects * precision[:, None]
    a, b, c = (heft[:, 0] * effects[:, 0]).sum(), (heft[:, 0] * effects[:, 1]).sum(), (heft[:, 1] * effects[:, 1]).sum()
    inverse = _inverse(omega[0, 0], omega[0, 1], omega[1, 1])
    covariance = _inverse(inverse[0, 0] + a, inverse[0, 1] + b, inverse[1, 1] + c)
    pull = (heft * residual[:, None]).sum(0)
    return (covariance * pull).sum(1), covariance


def _inverse(a: float, b: float, c: float) -> Float64:
    return np.array([[c, -b], [-b, a]]) / (a * c - b * b)


def _standard(design: Float64) -> tuple[Float64, Float64]:
    spread = design.std(0)
    return design.mean(0), np.where(spread > 1e-6, spread, 1.0)


def _mixed(designs: list[Float64], targets: list[Float64], effects: list[Float64]) -> tuple[Float64, Float64, float]:
    """Expectation–maximisation: weights, Ω and σ."""
    whole, target = np.concatenate(designs), np.concatenate(targets)
    ridge = RIDGE * np.eye(whole.shape[1])
    ridge[0, 0] = 0.0
    gram = whole.T @ whole + ridge
    weights = np.linalg.solve(gram, whole.T @ target)
    omega, noise = np.eye(2), max(float(np.std(target - whole @ weights)), 1e-3)
    for _ in range(ROUNDS):
        moved, moments, rest = [], np.zeros((2, 2)), 0.0
        for design, wanted, effect in zip(designs, targets, effects, strict=True):
            off = wanted - design @ weights
            mean, covariance = _effect(effect, off, np.full(len(off), 1 / noise**2), omega)
            moved.append(effect @ mean)
            moments += np.outer(mean, mean) + covariance
            rest += float(((off - effect @ mean) ** 2).sum() + np.trace(effect.T @ effect @ covariance))
        weights = np.linalg.solve(gram, whole.T @ (target - np.concatenate(moved)))
        omega, noise = moments / len(designs) + 1e-4 * np.eye(2), max(float(np.sqrt(rest / len(target))), 1e-3)
    return np.asarray(weights, np.float64), omega, noise


def _relation(logs: Sequence[Logs], large: Scale, noise: float) -> tuple[Scale, float, float, float]:
    """The small model's scale, then offset, slope, ρ given the large's; a useless small model has a huge ρ."""
    useless = (large, 0.0, 1.0, 1e3 * noise)
    pairs = [(one.logits["large"], one.logits["small"]) for one in logs if "small" in one.logits]
    if not pairs:
        return useless
    truth, hint = (np.concatenate(part).astype(np.float64) for part in zip(*pairs, strict=True))
    both = np.isfinite(truth) & np.isfinite(hint)
    if both.sum() < 3:
        return useless
    small = _scale(hint[both])
    z, y = large.of(truth[both]), small.of(hint[both])
    slope = float(np.cov(z, y)[0, 1] / max(float(z.var(ddof=1)), 1e-9))
    if slope <= 1e-3:
        return useless
    offset = float(y.mean() - slope * z.mean())
    return small, offset, slope, max(float(np.std(y - offset - slope * z)), 1e-3)
