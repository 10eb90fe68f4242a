"""Confidence sequences: intervals that hold at every look together, however often one looks and whenever one stops.

    P(for every t: the mean lies in [lower_t, upper_t]) ≥ 1 − α

Three, from the widest use to the narrowest:

- `asymptotic`: any values with a finite variance; holds for large t, as the central limit theorem does. Robbins'
  normal mixture with the running variance (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit
  theory and asymptotic confidence sequences", Annals of Statistics 2024, theorem 2.2). It covers the mean of the means
  so far, so a drifting mean does not break it.
- `betting`: values in [0, 1] with one mean; holds at every t (Waudby-Smith & Ramdas, "Estimating means of bounded
  random variables by betting", JRSS-B 2023, theorem 3).
- `beta_binomial`: a proportion; holds at every t (Robbins, "Statistical methods related to the law of the iterated
  logarithm", 1970).

Pure numpy.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

GRID = 1_000
_CELLS = 1 << 20  # of the largest table that `betting` makes: 8 MiB
_STAKE = 0.5  # largest share of its capital that a bet of `betting` may lose
_BISECTIONS = 60


def width(count: npt.ArrayLike, alpha: float, rho2: float) -> Float64:
    """Half-width in standard deviations of one value after `count` ≥ 1 values, of `count`'s shape.

    sqrt(2 (tρ² + 1) / (t²ρ²) · log(sqrt(tρ² + 1) / α))
    """
    t = np.asarray(count, np.float64)
    grown = t * rho2 + 1
    half: Float64 = np.sqrt(2 * grown / (t * t * rho2) * np.log(np.sqrt(grown) / alpha))
    return half


def tightest_at(n: float, alpha: float) -> float:
    """The ρ² whose `width` is smallest after n values.

    (y − 1) / n, where y > 1 solves y − log y = 1 − 2 log α (y = −W₋₁(−α²/e)); the width is then sqrt(y / n).
    """
    return (tightest_square(alpha) - 1) / n


def tightest_square(alpha: float) -> float:
    """The y of `tightest_at`: the squared half-width, in standard errors, at the size that the width is tuned for."""
    bound = 1 - 2 * math.log(alpha)
    y = bound + math.log(bound)
    for _ in range(50):  # a contraction by 1/y a step
        y = bound + math.log(y)
    return y


def running_moments(values: Float64) -> tuple[Float64, Float64]:
    """Mean and variance (divided by t) of the first t of the values (n,); both (n,). Exactly 0 for equal values."""
    if not len(values):
        return values.copy(), values.copy()
    count = np.arange(1, len(values) + 1, dtype=np.float64)
    moved = values - values[0]
    mean = np.cumsum(moved) / count
    variance = np.maximum(0.0, np.cumsum(moved * moved) / count - mean * mean)
    return mean + values[0], variance


def log_wealth(count: Float64, mean: Float64, variance: Float64, rho2: float) -> Float64:
    """Log of the mixture martingale against "the mean is 0"; it passes log(1/α) when `asymptotic` excludes 0.

    log M_t = t² mean² ρ² / (2 variance (tρ² + 1)) − ½ log(tρ² + 1); −inf where nothing has varied.
    """
    grown = count * rho2 + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (count * mean) ** 2 * rho2 / (2 * variance * grown) - np.log(grown) / 2
    found: Float64 = np.where(variance > 0, value, -np.inf)
    return found


def asymptotic(values: Float64, alpha: float, rho2: float) -> tuple[Float64, Float64]:
    """Lower and upper, (n,) each, of the mean of values (n,); ±inf until the values have varied."""
    mean, variance = running_moments(np.asarray(values, np.float64))
    half = np.sqrt(variance) * width(np.arange(1, len(mean) + 1), alpha, rho2)
    half = np.where(variance > 0, half, np.inf)
    return mean - half, mean + half


def intersection(lower: Float64, upper: Float64) -> tuple[Float64, Float64]:
    """What every look so far allows, (n,) each. It presumes one constant mean; lower > upper: there is none."""
    return np.maximum.accumulate(lower), np.minimum.accumulate(upper)


def betting(values: Float64, alpha: float, grid: int = GRID) -> tuple[Float64, Float64]:
    """Running intersection, (n,) each, of the hedged-capital sequence for values (n,) in [0, 1].

    A mean m stands at t while ½ Π(1 + λ_i (x_i − m)) < 1/α and ½ Π(1 − λ_i (x_i − m)) < 1/α over i ≤ t; λ_i is the
    predictable plug-in of `_bets`, cut so that no bet loses more than half. Bounds are points of the grid 0, 1/grid,
    … 1 that do not stand, so the grid only widens. lower > upper: no one mean explains the values.
    """
    table = np.asarray(values, np.float64)
    if table.size and not (table.min() >= 0 and table.max() <= 1):
        raise ValueError("values lie in [0, 1]")
    bets, limit = _bets(table, alpha), math.log(2 / alpha)
    means = np.linspace(0.0, 1.0, grid + 1)
    rising, falling = np.zeros_like(means), np.zeros_like(means)
    lower, upper = np.zeros_like(table), np.ones_like(table)
    start = 0
    while start < len(table) and len(means):
        stop = min(len(table), start + max(1, _CELLS // len(means)))
        gap = table[start:stop, None] - means
        with np.errstate(divide="ignore"):
            up = rising + np.cumsum(np.log1p(np.minimum(bets[start:stop, None], _STAKE / means) * gap), axis=0)
            down = np.log1p(-np.minimum(bets[start:stop, None], _STAKE / (1 - means)) * gap)
        down = falling + np.cumsum(down, axis=0)
        lower[start:stop] = np.where(up >= limit, means, 0.0).max(axis=1)
        upper[start:stop] = np.where(down >= limit, means, 1.0).min(axis=1)
        stand = (up < limit).all(axis=0) & (down < limit).all(axis=0)
        means, rising, falling, start = means[stand], up[-1, stand], down[-1, stand], stop
    return intersection(lower, upper)


def _bets(values: Float64, alpha: float) -> Float64:
    """λ_t = sqrt(2 log(2/α) / (σ²_{t−1} t log(1 + t))), (n,); σ²_t = (¼ + Σ (x_i − μ_i)²) / (t + 1) over i ≤ t."""
    count = np.arange(1, len(values) + 1, dtype=np.float64)
    mean = (0.5 + np.cumsum(values)) / (count + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variance])[: len(values)]
    bets: Float64 = np.sqrt(2 * math.log(2 / alpha) / (before * count * np.log1p(count)))
    return bets


def beta_binomial(successes: npt.ArrayLike, trials: npt.ArrayLike, alpha: float) -> tuple[Float64, Float64]:
    """Lower and upper, (n,) each, of a proportion after successes (n,) in trials (n,) ≥ 1, both whole and cumulative.

    {p: (t + 1) · C(t, s) · p^s · (1 − p)^(t − s) > α}: the likelihood ratio of a uniform mixture stays below 1/α.
    """
    s, t = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    if s.size and not ((s >= 0) & (s <= t) & (t >= 1)).all():
        raise ValueError("successes lie between 0 and trials, and there is at least one trial")
    whole = t.astype(np.int64)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, whole.max(initial=0) + 2)))])
    hits = s.astype(np.int64)
    floor = math.log(alpha) - (factorial[whole + 1] - factorial[hits] - factorial[whole - hits])
    return _crossing(s, t, floor, np.zeros_like(s)), _crossing(s, t, floor, np.ones_like(s))


def _crossing(s: Float64, t: Float64, floor: Float64, outside: Float64) -> Float64:
    """Where s log p + (t − s) log(1 − p) passes `floor` between s/t and `outside`; `outside` if it never does."""
    inside = s / t
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            hit = np.where(s > 0, s * np.log(middle), 0.0)
            missed = np.where(t > s, (t - s) * np.log1p(-middle), 0.0)
        stands = hit + missed > floor
        inside, outside = np.where(stands, middle, inside), np.where(stands, outside, middle)
    return outside
