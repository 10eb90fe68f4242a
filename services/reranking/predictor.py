"""Predicts what the large cross-encoder would say of every candidate, and learns from each batch that it did say. Pure.

    t_i = w·[1, rows_i, question] + u_i·a + ε_i        a ~ N(0, Ω) once per question, ε_i ~ N(0, σ²) per candidate
    s_i = offset + slope·t_i + η_i                     the small model's logit, η_i ~ N(0, ρ²)

t_i is the large model's raw logit, u_i = [1, fused_i]: how hard this question is, and how far the first stage can be
trusted on it. Given logits, `a` is Gaussian in closed form (Bayesian linear regression; Bishop, PRML, 3.3), a large
logit settles its own candidate, a small one shrinks towards it. Fitted by expectation–maximisation for a linear
mixed model (Laird, Ware 1982) on logged full reranks; needs no labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from services.contracts import Float32
from services.reranking.facts import Facts, Float64, Role

NODES = 9
RIDGE = 10.0
ROUNDS = 40


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
    """Before any logit: mean (n,) float64 of each large logit, and effects (n, d) float64, the rows u_i."""

    mean: Float64
    effects: Float64


@dataclass(frozen=True, slots=True)
class Belief:
    """mean and spread (n,) float64: expectation and standard deviation of each large logit; spread 0 = known.

    informed (n,) float64: how much of the spread a small logit would take away, as the deviation of the mean.
    """

    mean: Float64
    spread: Float64
    informed: Float64


@dataclass(frozen=True, slots=True)
class Predictor:
    """See the module. `nodes` (m,) are equally likely standardised residuals: logits are no bell curve."""

    center: Float64
    scale: Float64
    weights: Float64
    omega: Float64
    noise: float
    offset: float
    slope: float
    small_noise: float
    nodes: Float64

    def prior(self, facts: Facts) -> Prior:
        """Before any pair is scored."""
        design = _design(facts)
        standard = (design - self.center) / self.scale
        # Element by element, not by BLAS, whose sums depend on the machine's threads.
        mean = self.weights[0] + (standard * self.weights[1:]).sum(1)
        return Prior(mean, _effects(facts))

    def posterior(self, prior: Prior, large: Float32, small: Float32) -> Belief:
        """Given the logits so far, (n,) float32 each, NaN = not scored."""
        known, hinted = np.isfinite(large), np.isfinite(small)
        hinted &= ~known
        hint = (small - self.offset) / self.slope
        rho, sigma = (self.small_noise / self.slope) ** 2, self.noise**2
        residual = np.where(known, large, np.where(hinted, hint, prior.mean)) - prior.mean
        precision = np.where(known, 1 / sigma, np.where(hinted, 1 / (sigma + rho), 0.0))
        effect, covariance = _effect(prior.effects, residual, precision, self.omega)
        drift = (prior.effects * effect).sum(1)
        doubt = (prior.effects[:, :, None] * covariance * prior.effects[:, None, :]).sum((1, 2))
        trust = np.where(hinted, sigma / (sigma + rho), 0.0)
        mean = np.where(known, large, prior.mean + drift + trust * (residual - drift))
        variance = np.where(known, 0.0, sigma * (1 - trust) + (1 - trust) ** 2 * doubt)
        informed = np.where(known | hinted, 0.0, variance / np.sqrt(variance + rho))
        return Belief(mean, np.sqrt(variance), informed)

    def to_json(self) -> dict[str, Any]:
        """Numbers and lists."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Predictor:
        """What `to_json` wrote."""
        read: dict[str, Any] = {name: np.array(one) if isinstance(one, list) else one for name, one in value.items()}
        return cls(**read)


def fit(logs: Sequence[Logs]) -> Predictor:
    """Of at least one question with a scored pair; small logits may be missing everywhere. Raises `ValueError`."""
    scored = [(one.facts, np.isfinite(one.logits["large"])) for one in logs]
    if not any(known.any() for _, known in scored):
        raise ValueError("no pair was scored by the large model, so there is nothing to fit")
    designs = [_design(facts)[known] for facts, known in scored]
    targets = [one.logits["large"][known].astype(np.float64) for one, (_, known) in zip(logs, scored, strict=True)]
    effects = [_effects(facts)[known] for facts, known in scored]
    center, scale = _standard(np.concatenate(designs))
    standard = [np.column_stack([np.ones(len(one)), (one - center) / scale]) for one in designs]
    weights, omega, noise, left = _mixed(standard, targets, effects)
    offset, slope, small_noise = _relation(logs, noise)
    nodes = _nodes(left)
    return Predictor(center, scale, weights, omega, noise, offset, slope, small_noise, nodes)


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


def _mixed(
    designs: list[Float64], targets: list[Float64], effects: list[Float64]
) -> tuple[Float64, Float64, float, Float64]:
    """Expectation–maximisation: weights, Ω, σ and every residual."""
    whole, target = np.concatenate(designs), np.concatenate(targets)
    ridge = RIDGE * np.eye(whole.shape[1])
    ridge[0, 0] = 0.0
    gram = whole.T @ whole + ridge
    weights = np.linalg.solve(gram, whole.T @ target)
    omega, noise = np.eye(2), max(float(np.std(target - whole @ weights)), 1e-3)
    left: Float64 = target - whole @ weights
    for _ in range(ROUNDS):
        moved, moments, rest = [], np.zeros((2, 2)), 0.0
        for design, wanted, effect in zip(designs, targets, effects, strict=True):
            off = wanted - design @ weights
            mean, covariance = _effect(effect, off, np.full(len(off), 1 / noise**2), omega)
            moved.append(effect @ mean)
            moments += np.outer(mean, mean) + covariance
            rest += float(((off - effect @ mean) ** 2).sum() + np.trace(effect.T @ effect @ covariance))
        shift = np.concatenate(moved)
        weights = np.linalg.solve(gram, whole.T @ (target - shift))
        omega, noise = moments / len(designs) + 1e-4 * np.eye(2), max(float(np.sqrt(rest / len(target))), 1e-3)
        left = target - shift - whole @ weights
    return np.asarray(weights, np.float64), omega, noise, left


def _relation(logs: Sequence[Logs], noise: float) -> tuple[float, float, float]:
    """offset, slope, ρ of the small model's logit given the large's; a useless small model has a huge ρ."""
    pairs = [(one.logits["large"], one.logits["small"]) for one in logs if "small" in one.logits]
    if not pairs:
        return 0.0, 1.0, 1e3 * noise
    large, small = (np.concatenate(part).astype(np.float64) for part in zip(*pairs, strict=True))
    both = np.isfinite(large) & np.isfinite(small)
    if both.sum() < 3:
        return 0.0, 1.0, 1e3 * noise
    large, small = large[both], small[both]
    slope = float(np.cov(large, small)[0, 1] / max(float(large.var(ddof=1)), 1e-9))
    if slope <= 1e-3:
        return 0.0, 1.0, 1e3 * noise
    offset = float(small.mean() - slope * large.mean())
    return offset, slope, max(float(np.std(small - offset - slope * large)), 1e-3)


def _nodes(left: Float64) -> Float64:
    """(NODES,) means of equally many residuals, scaled to mean 0 and variance 1."""
    parts = np.array_split(np.sort(left), NODES) if len(left) >= 10 * NODES else None
    if parts is None or float(left.std()) < 1e-9:
        parts = [np.array([value]) for value in (-1.72, -0.95, -0.58, -0.28, 0.0, 0.28, 0.58, 0.95, 1.72)]
    nodes = np.array([part.mean() for part in parts])
    nodes = nodes - nodes.mean()
    scaled: Float64 = nodes / nodes.std()
    return scaled
