"""How many units the always-valid test needs, and what so many units can find. Pure.

The interval tuned for n units is ±sqrt(y) standard errors wide at n (`sequences.tightest_square`), so an effect δ of
the control's mean μ is found there with the wished power when

    δ |μ| = (sqrt(y) + z_power) · σ · sqrt((1 / s_0 + (1 + δ)² / s_k) / n)

s_0 and s_k the shares of the control and of the smallest treatment; a treatment that multiplies the metric by 1 + δ
multiplies its deviation too. α is shared among the treatments, as in `effects.py`. About twice the units of a z-test
that may look once: the price of looking always. Early looks find some effects before n, so power is a little higher.

A covariate that takes away a share v of the variance is planned for with deviation · sqrt(1 − v).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from jobs.experiments.effects import BURN_IN
from jobs.experiments.sequences import tightest_square


def planned_units(
    mean: float, deviation: float, minimum_effect: float, alpha: float, power: float, shares: Sequence[float]
) -> int:
    """Units over all arms at which `minimum_effect` (relative to `mean`, the control's) is found with `power`.

    `deviation` is that of one unit's value; `shares` (k,) sum to 1, the control first. At least twice what the
    burn-in of every arm takes. Raises `ValueError` for a mean of 0, of which no part can be found.
    """
    if mean == 0:
        raise ValueError("no share of a mean of 0 can be found")
    control, smallest = shares[0], min(shares[1:])
    scale = 1 / control + (1 + minimum_effect) ** 2 / smallest
    units = _needed(alpha, power, len(shares)) * (deviation / (mean * minimum_effect)) ** 2 * scale
    return max(math.ceil(units), math.ceil(2 * BURN_IN / min(shares)))


def detectable(n: int, mean: float, deviation: float, alpha: float, power: float, shares: Sequence[float]) -> float:
    """The smallest effect, relative to `mean`, that n units over all arms find with `power`; inf when none is.

    The positive root of `planned_units`' formula in δ.
    """
    if mean == 0 or n < math.ceil(2 * BURN_IN / min(shares)):
        return math.inf
    control, smallest = shares[0], min(shares[1:])
    unit = _needed(alpha, power, len(shares)) * (deviation / mean) ** 2 / n
    a, b, c = 1 - unit / smallest, unit / smallest, unit * (1 / control + 1 / smallest)
    return (b + math.sqrt(b * b + a * c)) / a if a > 0 else math.inf


def _needed(alpha: float, power: float, arms: int) -> float:
    """The squared distance from 0 in standard errors that the effect must have."""
    quantile = NormalDist().inv_cdf(power)
    return (math.sqrt(tightest_square(alpha / max(1, arms - 1))) + quantile) ** 2
