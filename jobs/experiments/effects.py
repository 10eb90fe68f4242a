"""What each treatment changed against the control, with an interval that holds at every look. Pure numpy, O(n).

Units come in the order in which they closed; arm 0 is the control. Of a treatment k only its own units and the
control's count, so P(treated) is w = share_k / (share_0 + share_k). Each unit gives one unbiased outcome (AIPW):

    ψ_i = m¹_i − m⁰_i + T_i (y_i − m¹_i) / w − (1 − T_i)(y_i − m⁰_i) / (1 − w)
    m^a_i = mean of arm a + slope · (x_i − mean of x), all from the units before i

The slope on the pre-period covariate x is CUPED (Deng, Xu, Kohavi, Walker, WSDM 2013); a unit without x stands at the
mean of x. Bad predictions cost width, never truth, for T is random. Over ψ runs the asymptotic confidence sequence of
`sequences.py`, tuned for `planned` units. Its variance is the larger of ψ's own and of what both arms' residuals give
together, Σ (y_i − m_i)² / (t w (1 − w)): a small arm of a rare or skewed metric has not shown its tail yet (by ψ's own
alone, at shares 90 : 10 and a rate of 1 %, a third of A/A tests end in a wrong claim). Nothing is claimed before each
arm has `BURN_IN` units: until then the intervals are infinite and p is 1. What stays asymptotic: of a lognormal latency
(σ 1) that a treatment of a tenth of the units doubles, the upper bound is too low at some look in 6.5 % of runs.

The relative difference D / C (C the control's mean) has a Fieller interval: r stands while the sequence over
ψ_i − r φ_i, φ_i the control's own outcome, holds 0. So C's uncertainty is counted, and the relative interval excludes
0 exactly when the absolute one does. Where C cannot be told from 0 it is infinite.

The interval speaks of the mean effect over the units so far, even when the effect drifts. The p-value and the running
intersection look back at every look; the intersection presumes one constant effect.

α is shared among the treatments (Bonferroni); an `Effect` says its own part. Several metrics are several questions.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.experiments.sequences import intersection, log_wealth, running_moments, tightest_at, width

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

BURN_IN = 50
POINTS = 200
_SHRINK = 10.0  # units that the slope on the covariate is drawn to 0 by
_ROUNDING = 1e-9  # of the values' deviation: a smaller one is arithmetic, not chance


@dataclass(frozen=True, slots=True)
class Series:
    """One treatment over at most `POINTS` looks after the burn-in; all of one length.

    `step` counts units of all arms. `lower`, `upper` are each look's own; `narrowest_*` what all looks to it allow;
    `relative*` are parts of |the control's mean|.
    """

    step: tuple[int, ...] = ()
    difference: tuple[float, ...] = ()
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    narrowest_lower: tuple[float, ...] = ()
    narrowest_upper: tuple[float, ...] = ()
    relative: tuple[float, ...] = ()
    relative_lower: tuple[float, ...] = ()
    relative_upper: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Effect:
    """A treatment against the control at this look; see the module. Means are as observed, differences adjusted.

    treatment        its arm, 1 … k − 1
    difference       treatment − control in the metric's unit, between `lower` and `upper`; NaN without any
    relative         difference / |the control's mean|, between `relative_lower` and `relative_upper`
    control_lower    with `control_upper`: where the control's mean lies, by the same sequence
    p                smallest α whose sequence excluded 0 at some look; a claim is p ≤ `alpha`
    reduction        share of ψ's variance that the covariate took away; below 0 when it did harm
    """

    treatment: int
    control_units: int
    units: int
    control_mean: float
    mean: float
    control_lower: float
    control_upper: float
    difference: float
    lower: float
    upper: float
    relative: float
    relative_lower: float
    relative_upper: float
    p: float
    alpha: float
    reduction: float
    series: Series

    def to_json(self) -> dict[str, Any]:
        """Every field by name; what is not finite is None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def effect(
    arm: npt.NDArray[np.int8], value: Float64, covariate: Float64, shares: Float64, alpha: float, planned: int
) -> tuple[Effect, ...]:
    """One `Effect` a treatment, in the order of the arms.

    arm        (n,) int8, 0 = control, in the order in which the units closed
    value      (n,) float64, finite, the metric's unit
    covariate  (n,) float64, the unit's mean of the same metric before its exposure; NaN = none
    shares     (k,) float64, P(arm), sum 1
    alpha      P(some treatment's interval misses at any look)
    planned    units over all arms that the width is tuned for; any number is valid
    """
    _check(arm, value, covariate, shares)
    part = alpha / max(1, len(shares) - 1)
    return tuple(
        _against_control(number, arm, value, covariate, shares, part, planned) for number in range(1, len(shares))
    )


@dataclass(frozen=True, slots=True)
class _Looks:
    """Running moments over n units: of ψ (`difference`), of φ (`control`), and their covariance; each (n,) float64."""

    count: Float64
    difference: Float64
    difference_variance: Float64
    control: Float64
    control_variance: Float64
    covariance: Float64

    @classmethod
    def of(cls, psi: Float64, phi: Float64, pooled: Float64, floor: float) -> _Looks:
        """ψ, φ, pooled (n,); a variance of ψ up to `floor` counts as none."""
        difference, spread = running_moments(psi)
        control, control_spread = running_moments(phi)
        _, both = running_moments(psi + phi)
        count = np.arange(1, len(psi) + 1, dtype=np.float64)
        covariance = (both - spread - control_spread) / 2
        spread = np.maximum(spread, np.cumsum(pooled) / count)
        spread = np.where(spread > floor, spread, 0.0)
        return cls(count, difference, spread, control, control_spread, covariance)

    def at(self, places: Int64) -> _Looks:
        """Only these looks."""
        columns = (self.count, self.difference, self.difference_variance)
        more = (self.control, self.control_variance, self.covariance)
        return _Looks(*(column[places] for column in (*columns, *more)))

    def half(self, alpha: float, rho2: float) -> Float64:
        """Half-width of the difference, (n,); inf where nothing has varied."""
        half = np.sqrt(self.difference_variance) * width(self.count, alpha, rho2)
        return np.where(self.difference_variance > 0, half, np.inf)

    def relative(self, alpha: float, rho2: float) -> tuple[Float64, Float64, Float64]:
        """D / |C| and Fieller's bounds, (n,) each: the roots of (D − rC)² = width² · Var(ψ − rφ)."""
        square = width(self.count, alpha, rho2) ** 2
        a = self.control**2 - square * self.control_variance
        b = self.difference * self.control - square * self.covariance
        c = self.difference**2 - square * self.difference_variance
        known = (a > 0) & (self.difference_variance > 0)
        sign = np.sign(self.control)
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(np.maximum(0.0, b * b - a * c)) / a
            middle = sign * b / a
            ratio = self.difference / np.abs(self.control)
        return ratio, np.where(known, middle - root, -np.inf), np.where(known, middle + root, np.inf)


def _against_control(
    treatment: int,
    arm: npt.NDArray[np.int8],
    value: Float64,
    covariate: Float64,
    shares: Float64,
    alpha: float,
    planned: int,
) -> Effect:
    place = np.flatnonzero((arm == 0) | (arm == treatment))
    treated = arm[place] == treatment
    y, x = value[place], covariate[place]
    pair = float(shares[0] + shares[treatment])
    weight = float(shares[treatment]) / pair
    rho2 = tightest_at(planned * pair, alpha)
    first, psi, phi, pooled = _outcomes(treated, y, _adjustment(y, x), weight)
    looks = _Looks.of(psi, phi, pooled, (_ROUNDING * float(y.std())) ** 2 if len(y) else 0.0)
    counted = np.minimum(np.cumsum(treated), np.cumsum(~treated))[first:]
    ready = int(np.searchsorted(counted, BURN_IN))
    series = _series(looks, place[first:] + 1, ready, alpha, rho2)
    claims = _claims(looks, ready, alpha, rho2)
    return Effect(
        treatment=treatment,
        control_units=int((~treated).sum()),
        units=int(treated.sum()),
        control_mean=_mean(y[~treated]),
        mean=_mean(y[treated]),
        alpha=alpha,
        reduction=_reduction(treated, y, x, weight, looks),
        series=series,
        **claims,
    )


def _adjustment(value: Float64, covariate: Float64) -> Float64:
    """Slope · (x − mean of x) from the units before each, (n,); 0 without a covariate or without a past."""
    has = ~np.isnan(covariate)
    if not has.any():
        return np.zeros_like(value)
    # Moving both by a constant changes nothing but the rounding.
    x = np.where(has, covariate - covariate[has][0], 0.0)
    y = np.where(has, value - value[has][0], 0.0)
    count, sum_x, sum_y = _before(has.astype(np.float64)), _before(x), _before(y)
    safe = np.maximum(count, 1.0)
    spread = _before(x * x) - sum_x * sum_x / safe
    shared = _before(x * y) - sum_x * sum_y / safe
    varied = spread > 1e-12 * _before(x * x)
    slope = np.divide(shared, spread, out=np.zeros_like(shared), where=varied) * count / (count + _SHRINK)
    return np.where(has, slope * (x - sum_x / safe), 0.0)


def _outcomes(
    treated: npt.NDArray[np.bool_], value: Float64, adjustment: Float64, weight: float
) -> tuple[int, Float64, Float64, Float64]:
    """The place of the first unit with one of each arm before it; from there on ψ, φ and pooled, (n − place,) each.

    φ_i = m⁰_i + (1 − T_i)(y_i − m⁰_i) / (1 − w), an unbiased outcome of the control; pooled_i = (y_i − m_i)² /
    (w (1 − w)), whose mean is ψ's variance when both arms vary alike.
    """
    ones, twos = (~treated).astype(np.float64), treated.astype(np.float64)
    first = int(np.searchsorted(np.minimum(_before(ones), _before(twos)), 1))
    if first >= len(value):
        return len(value), np.zeros(0), np.zeros(0), np.zeros(0)
    moved = value - value[0]
    control = (_before(moved * ones)[first:] / _before(ones)[first:]) + adjustment[first:]
    treatment = (_before(moved * twos)[first:] / _before(twos)[first:]) + adjustment[first:]
    now = moved[first:]
    of_control = control + ones[first:] * (now - control) / (1 - weight)
    of_treatment = treatment + twos[first:] * (now - treatment) / weight
    missed = np.where(treated[first:], now - treatment, now - control)
    return first, of_treatment - of_control, of_control + value[0], missed**2 / (weight * (1 - weight))


def _claims(looks: _Looks, ready: int, alpha: float, rho2: float) -> dict[str, float]:
    """The fields of `Effect` that speak of the last look, and p."""
    if not len(looks.count):
        nothing = {
            "control_lower": -np.inf,
            "control_upper": np.inf,
            "difference": np.nan,
            "relative": np.nan,
            "p": 1.0,
        }
        return {**nothing, "lower": -np.inf, "upper": np.inf, "relative_lower": -np.inf, "relative_upper": np.inf}
    last = looks.at(np.array([len(looks.count) - 1]))
    burnt = ready < len(looks.count)
    half = float(last.half(alpha, rho2)[0]) if burnt else np.inf
    around = float(np.sqrt(last.control_variance[0]) * width(last.count, alpha, rho2)[0])
    around = around if burnt and around > 0 else np.inf
    ratio, low, high = (float(part[0]) for part in last.relative(alpha, rho2))
    difference, control = float(last.difference[0]), float(last.control[0])
    wealth = log_wealth(looks.count, looks.difference, looks.difference_variance, rho2)[ready:]
    return {
        "control_lower": control - around,
        "control_upper": control + around,
        "difference": difference,
        "lower": difference - half,
        "upper": difference + half,
        "relative": ratio,
        "relative_lower": low if burnt else -np.inf,
        "relative_upper": high if burnt else np.inf,
        "p": math.exp(-max(0.0, float(wealth.max(initial=0.0)))),
    }


def _series(looks: _Looks, step: Int64, ready: int, alpha: float, rho2: float) -> Series:
    after = len(looks.count) - ready
    if after <= 0:
        return Series()
    half = looks.half(alpha, rho2)
    lower, upper = (looks.difference - half)[ready:], (looks.difference + half)[ready:]
    narrowest_lower, narrowest_upper = intersection(lower, upper)
    places = np.unique(np.linspace(0, after - 1, min(POINTS, after)).round().astype(np.int64))
    shown = looks.at(places + ready)
    columns = (shown.difference, lower[places], upper[places], narrowest_lower[places], narrowest_upper[places])
    relative = shown.relative(alpha, rho2)
    steps = tuple(step[places + ready].tolist())
    return Series(steps, *(tuple(column.tolist()) for column in (*columns, *relative)))


def _reduction(treated: npt.NDArray[np.bool_], y: Float64, x: Float64, weight: float, looks: _Looks) -> float:
    if not len(looks.count) or np.isnan(x).all():
        return 0.0
    _, plain, _, _ = _outcomes(treated, y, np.zeros_like(y), weight)
    spread = float(plain.var())
    return 1 - float(looks.difference_variance[-1]) / spread if spread > 0 else 0.0


def _before(values: Float64) -> Float64:
    """Sums of the values before each, (n,)."""
    sums: Float64 = np.concatenate([[0.0], np.cumsum(values)[:-1]]) if len(values) else values.copy()
    return sums


def _mean(values: Float64) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(arm: npt.NDArray[np.int8], value: Float64, covariate: Float64, shares: Float64) -> None:
    if not len(arm) == len(value) == len(covariate):
        raise ValueError(f"{len(arm)} arms, {len(value)} values and {len(covariate)} covariates are not of one length")
    if len(shares) < 2 or min(shares) <= 0 or not math.isclose(float(np.sum(shares)), 1.0, abs_tol=1e-6):
        raise ValueError("shares are above 0 and sum to 1, one an arm")
    if len(arm) and not 0 <= int(arm.min()) <= int(arm.max()) < len(shares):
        raise ValueError(f"arms lie in 0 … {len(shares) - 1}")
    if not np.isfinite(value).all():
        raise ValueError("values are finite")
