"""Effects: outcomes by hand, a plain loop as oracle, coverage with every look, and what is refused."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.experiments.effects import BURN_IN, POINTS, Effect, Float64, effect
from jobs.experiments.sequences import tightest_at, width

HALF = np.array([0.5, 0.5])


def draw(seed: int, n: int, lift: float = 0.0, share: float = 0.5) -> tuple[np.ndarray, Float64, Float64]:
    """Arms, values of rate .3 (+ lift in arm 1), and a covariate with gaps that goes with the value."""
    chance = np.random.default_rng(seed)
    arm = (chance.random(n) < share).astype(np.int8)
    value = (chance.random(n) < 0.3 + lift * arm).astype(np.float64)
    before = np.where(chance.random(n) < 0.2, np.nan, value + chance.normal(0, 0.4, n))
    return arm, value, before


def by_hand(arm: np.ndarray, value: Float64, before: Float64, w: float) -> tuple[Float64, Float64, Float64]:
    """ψ, φ and the pooled residual outcome of the module's formulas, unit by unit, from slices of the past."""
    rows = []
    for i in range(len(value)):
        past_arm, past, x = arm[:i], value[:i], before[:i]
        if not ((past_arm == 0).any() and (past_arm == 1).any()):
            continue
        seen = ~np.isnan(x)
        adjustment = 0.0
        if seen.any() and not math.isnan(before[i]):
            gap = x[seen] - x[seen].mean()
            slope = float(gap @ past[seen] / (gap @ gap)) if gap @ gap > 1e-12 else 0.0
            adjustment = slope * seen.sum() / (seen.sum() + 10) * (before[i] - x[seen].mean())
        m0, m1 = past[past_arm == 0].mean() + adjustment, past[past_arm == 1].mean() + adjustment
        t, y = float(arm[i]), value[i]
        phi = m0 + (1 - t) * (y - m0) / (1 - w)
        rows.append((m1 + t * (y - m1) / w - phi, phi, (y - (m1 if t else m0)) ** 2 / (w * (1 - w))))
    psi, phi, pooled = np.array(rows).T
    return psi, phi, pooled


def test_every_figure_follows_the_formulas() -> None:
    arm, value, before = draw(0, 400, share=0.4)
    found = effect(arm, value, before, np.array([0.6, 0.4]), 0.1, 500)[0]
    psi, phi, pooled = by_hand(arm, value, before, 0.4)
    n, rho2 = len(psi), tightest_at(500, 0.1)
    half = math.sqrt(max(psi.var(), pooled.mean())) * float(width(n, 0.1, rho2))
    assert found.difference == pytest.approx(psi.mean())
    assert (found.lower, found.upper) == (pytest.approx(psi.mean() - half), pytest.approx(psi.mean() + half))
    around = phi.std() * float(width(n, 0.1, rho2))
    assert found.control_upper == pytest.approx(phi.mean() + around)
    assert (found.control_units, found.units) == ((arm == 0).sum(), (arm == 1).sum())
    assert (found.control_mean, found.mean) == (value[arm == 0].mean(), value[arm == 1].mean())
    plain = by_hand(arm, value, np.full(400, np.nan), 0.4)[0]
    assert found.reduction == pytest.approx(1 - max(psi.var(), pooled.mean()) / plain.var(), abs=0.02)
    extra = max(0.0, pooled.mean() - psi.var())
    for r in (found.relative_lower, found.relative_upper):  # Fieller: there the sequence over ψ − rφ touches 0
        edge = math.sqrt((psi - r * phi).var() + extra) * float(width(n, 0.1, rho2))
        assert abs(psi.mean() - r * phi.mean()) == pytest.approx(edge)


def test_a_covariate_narrows_and_says_by_how_much() -> None:
    chance = np.random.default_rng(5)
    arm = (chance.random(5_000) < 0.5).astype(np.int8)
    before = chance.normal(100, 10, 5_000)
    value = before + chance.normal(0, 10, 5_000)  # correlation sqrt(½)
    with_it = effect(arm, value, before, HALF, 0.05, 5_000)[0]
    without = effect(arm, value, np.full(5_000, np.nan), HALF, 0.05, 5_000)[0]
    assert with_it.reduction == pytest.approx(0.5, abs=0.03)
    assert without.reduction == 0.0
    ratio = (with_it.upper - with_it.lower) / (without.upper - without.lower)
    assert ratio == pytest.approx(math.sqrt(0.5), abs=0.03)


def test_p_is_the_smallest_alpha_that_excluded_zero_at_some_look() -> None:
    arm, value, before = draw(1, 3_000, lift=0.08)
    found = effect(arm, value, before, HALF, 0.05, 3_000)[0]
    assert 0 < found.p <= 0.05
    assert max(found.series.narrowest_lower) > 0
    psi, _, pooled = by_hand(arm, value, before, 0.5)
    t = np.arange(1, len(psi) + 1)
    variance = np.maximum(np.cumsum(psi**2) / t - (np.cumsum(psi) / t) ** 2, np.cumsum(pooled) / t)
    first = np.flatnonzero(np.minimum(np.cumsum(arm), np.cumsum(1 - arm)) >= BURN_IN)[0] - (len(arm) - len(psi))
    score = np.abs(np.cumsum(psi) / t / np.sqrt(variance))[first:]
    rho2 = tightest_at(3_000, 0.05)
    assert (score >= width(t[first:], found.p * (1 + 1e-6), rho2)).any()
    assert (score <= width(t[first:], found.p * (1 - 1e-6), rho2)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 600), st.floats(0.1, 0.9))
def test_bounds_hold_the_difference_and_zero_alike(seed: int, n: int, share: float) -> None:
    arm, value, before = draw(seed, n, lift=0.2, share=share)
    found = effect(arm, value, before, np.array([1 - share, share]), 0.05, 500)[0]
    if not math.isnan(found.difference):
        assert found.lower <= found.difference <= found.upper
    if math.isfinite(found.relative_lower):
        assert found.relative_lower <= found.relative <= found.relative_upper
        assert (found.relative_lower > 0) == (found.lower > 0)
    series = found.series
    assert len(series.step) <= POINTS
    assert {len(column) for column in (series.lower, series.relative_upper, series.narrowest_upper)} == {
        len(series.step)
    }
    assert list(series.narrowest_lower) == sorted(series.narrowest_lower)
    assert list(series.narrowest_upper) == sorted(series.narrowest_upper, reverse=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 1_000))
def test_scale_changes_the_unit_and_nothing_else(seed: int, scale: float) -> None:
    arm, value, before = draw(seed, 500)
    one = effect(arm, value, before, HALF, 0.05, 500)[0]
    other = effect(arm, value * scale, before * scale, HALF, 0.05, 500)[0]
    assert other.lower == pytest.approx(one.lower * scale, rel=1e-6)
    assert other.relative_upper == pytest.approx(one.relative_upper, rel=1e-6)
    assert other.p == pytest.approx(one.p, rel=1e-6)


def test_a_negative_control_mean_keeps_the_sign_of_the_difference() -> None:
    arm, value, before = draw(3, 4_000, lift=0.1)
    found = effect(arm, value - 1, before, HALF, 0.05, 4_000)[0]
    assert found.difference > 0
    assert 0 < found.relative_lower < found.relative < found.relative_upper
    assert found.relative == pytest.approx(found.difference / 0.7, rel=0.05)


def test_nothing_is_claimed_before_the_burn_in() -> None:
    arm = np.tile(np.array([0, 1], np.int8), BURN_IN)
    value = arm + np.random.default_rng(0).normal(0, 0.01, len(arm))
    nothing = np.full(len(arm), np.nan)
    early = effect(arm[:-1], value[:-1], nothing[:-1], HALF, 0.05, 100)[0]
    assert (early.lower, early.upper, early.relative_lower, early.p) == (-math.inf, math.inf, -math.inf, 1.0)
    assert early.series.step == ()
    ready = effect(arm, value, nothing, HALF, 0.05, 100)[0]
    assert ready.lower > 0
    assert ready.series.step == (2 * BURN_IN,)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1])
def test_what_never_varied_is_not_certain(constant: float) -> None:
    arm = draw(0, 1_000)[0]
    value = np.full(1_000, constant)
    found = effect(arm, value, value * 1.1, HALF, 0.05, 1_000)[0]
    assert (found.difference, found.lower, found.upper, found.p) == (0.0, -math.inf, math.inf, 1.0)


def test_a_control_of_zero_has_no_relative_interval() -> None:
    arm = draw(0, 2_000)[0]
    chance = np.random.default_rng(1)
    value = np.where(arm == 1, chance.random(2_000) < 0.2, 0.0)
    found = effect(arm, value, np.full(2_000, np.nan), HALF, 0.05, 2_000)[0]
    assert found.lower > 0
    assert (found.relative_lower, found.relative_upper) == (-math.inf, math.inf)
    assert json.loads(json.dumps(found.to_json()))["relative_lower"] is None


def test_several_treatments_share_alpha_and_see_only_their_own_units() -> None:
    chance = np.random.default_rng(4)
    arm = chance.choice(3, 6_000, p=[0.5, 0.3, 0.2]).astype(np.int8)
    value = chance.normal(10 + (arm == 2), 2, 6_000)
    none = np.full(6_000, np.nan)
    first, second = effect(arm, value, none, np.array([0.5, 0.3, 0.2]), 0.05, 6_000)
    assert (first.treatment, second.treatment, first.alpha) == (1, 2, 0.025)
    assert first.lower < 0 < first.upper
    assert second.lower > 0.5
    two = arm != 2
    alone = effect(arm[two], value[two], none[two], np.array([0.625, 0.375]), 0.025, 4_800)[0]
    assert (alone.lower, alone.p) == (pytest.approx(first.lower), pytest.approx(first.p))
    assert first.series.step[-1] == np.flatnonzero(two)[-1] + 1


def test_no_units_at_all() -> None:
    nothing = np.zeros(0)
    found = effect(nothing.astype(np.int8), nothing, nothing, HALF, 0.05, 100)[0]
    assert (found.units, found.p, found.lower) == (0, 1.0, -math.inf)
    assert found.to_json()["difference"] is None


def misses(runs: int, share: float, values: str) -> tuple[int, int]:
    """A/A runs of 2,000 units that claimed something at any look, and whose relative interval missed at the last."""
    chance = np.random.default_rng(11)
    claimed = missed = 0
    for _ in range(runs):
        arm = (chance.random(2_000) < share).astype(np.int8)
        value = chance.lognormal(6, 1, 2_000) if values == "latency" else (chance.random(2_000) < 0.03) * 1.0
        found: Effect = effect(arm, value, np.full(2_000, np.nan), np.array([1 - share, share]), 0.05, 1_000)[0]
        claimed += found.p <= 0.05
        missed += not found.relative_lower <= 0 <= found.relative_upper
    return claimed, missed


@pytest.mark.parametrize("share", [0.5, 0.1, 0.9])
@pytest.mark.parametrize("values", ["latency", "rare"])
def test_false_claims_at_any_look_stay_below_alpha(share: float, values: str) -> None:
    claimed, missed = misses(300, share, values)
    assert claimed <= 15
    assert missed <= claimed


def test_a_hundred_thousand_units_take_less_than_half_a_second() -> None:
    arm, value, before = draw(0, 100_000)
    started = time.perf_counter()
    effect(arm, value, before, HALF, 0.05, 100_000)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": np.zeros(3)}, "length"),
        ({"value": np.array([1.0, np.nan])}, "finite"),
        ({"shares": np.array([0.5, 0.6])}, "sum to 1"),
        ({"arm": np.array([0, 2], np.int8)}, "arms lie"),
    ],
)
def test_bad_tables_are_refused(change: dict, message: str) -> None:
    table = {"arm": np.array([0, 1], np.int8), "value": np.zeros(2), "covariate": np.zeros(2), "shares": HALF}
    with pytest.raises(ValueError, match=message):
        effect(**{**table, **change}, alpha=0.05, planned=10)
