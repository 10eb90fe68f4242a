"""Sample-ratio mismatch: do units reach the arms in the shares that were assigned? A test valid at every look. Pure.

A mismatch says that exposures or outcomes are lost in one arm more than in another, and then no difference means
anything. Lindon & Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022): under the null unit t
falls into arm j with probability θ_j; the bet is a Dirichlet prior centred on θ,

    E_t = Π_{i ≤ t} (c θ_j + S_j(i − 1)) / ((c + i − 1) θ_j),   j the arm of unit i, S_j its units before

a martingale of mean 1, so P(E_t ≥ 1/α at any t) ≤ α, and p = min(1, 1 / E). The concentration c says how small a
deviation the bet is on: about sqrt(1 / c). Half of the capital is on c = 10⁵ (a loss of a percent shows by a million
units), a quarter each on 3·10³ and 10² (a broken arm shows within a hundred); their mean is a martingale too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

ALPHA = 0.01
CONCENTRATIONS = ((1e5, 0.5), (3e3, 0.25), (1e2, 0.25))  # c and its part of the capital
_LOG_MAX = 700.0  # exp of more does not fit


@dataclass(frozen=True, slots=True)
class Mismatch:
    """`e_value` is the bet's capital (1 = nothing seen), `p` = min(1, 1 / e_value); `counts` are units an arm."""

    e_value: float
    p: float
    alarmed: bool
    counts: tuple[int, ...]
    shares: tuple[float, ...]


def mismatch(counts: npt.ArrayLike, shares: npt.ArrayLike, alpha: float = ALPHA) -> Mismatch:
    """Counts (k,) of units an arm against shares (k,) that sum to 1; valid however often it is asked."""
    units, theta = np.asarray(counts, np.int64), _checked(shares)
    if len(units) != len(theta) or (len(units) and units.min() < 0):
        raise ValueError("one count an arm, not below 0")
    parts = [math.log(part) + _log_bayes_factor(units.tolist(), theta.tolist(), c) for c, part in CONCENTRATIONS]
    value = math.exp(min(_LOG_MAX, float(np.logaddexp.reduce(parts))))
    p = min(1.0, 1 / value)
    return Mismatch(value, p, p < alpha, tuple(units.tolist()), tuple(theta.tolist()))


def mismatch_series(arms: npt.NDArray[np.int8], shares: npt.ArrayLike) -> Float64:
    """Log E_t after every unit, (n,); `arms` (n,) int8 in the order in which the units came."""
    theta = _checked(shares)
    before, part = np.zeros(len(arms)), np.zeros(len(arms))
    for number, share in enumerate(theta):
        mine = arms == number
        before[mine] = np.arange(int(mine.sum()))
        part[mine] = share
    seen = np.arange(len(arms), dtype=np.float64)
    total = np.full(len(arms), -np.inf)
    for c, capital in CONCENTRATIONS:
        step = np.log((c * part + before) / ((c + seen) * part))
        total = np.logaddexp(total, math.log(capital) + np.cumsum(step))
    return total


def _log_bayes_factor(counts: list[int], shares: list[float], c: float) -> float:
    """Log Γ(c) / Γ(c + n) · Π Γ(cθ_j + S_j) / (Γ(cθ_j) θ_j^{S_j}): the module's product in closed form."""
    total = math.lgamma(c) - math.lgamma(c + sum(counts))
    for count, share in zip(counts, shares, strict=True):
        total += math.lgamma(c * share + count) - math.lgamma(c * share) - count * math.log(share)
    return total


def _checked(shares: npt.ArrayLike) -> Float64:
    theta = np.asarray(shares, np.float64)
    if len(theta) < 2 or theta.min() <= 0 or not math.isclose(float(theta.sum()), 1.0, abs_tol=1e-6):
        raise ValueError("shares are above 0 and sum to 1, one an arm")
    return theta
