"""Confidence sequences: formulas by hand, exact binomials as oracle, coverage at every look."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import betaln, lambertw

from jobs.experiments.sequences import (
    asymptotic,
    beta_binomial,
    betting,
    intersection,
    log_wealth,
    running_moments,
    tightest_at,
    tightest_square,
    width,
)

NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60)


def test_width_by_hand() -> None:
    # t = 100, rho² = 0.08: sqrt(2 · 9 / (10000 · 0.08) · log(3 / 0.05))
    assert float(width(100, 0.05, 0.08)) == pytest.approx(math.sqrt(0.0225 * math.log(60)))


def test_asymptotic_by_hand() -> None:
    lower, upper = asymptotic(np.array([1.0, 3.0, 5.0]), 0.05, 1.0)
    assert (lower[0], upper[0]) == (-np.inf, np.inf)
    half = math.sqrt(2 * 4 / 9 * math.log(2 / 0.05)) * math.sqrt(8 / 3)  # mean 3, variance 8/3, tρ² + 1 = 4
    assert (lower[2], upper[2]) == (pytest.approx(3 - half), pytest.approx(3 + half))


def test_what_never_varied_claims_nothing() -> None:
    lower, upper = asymptotic(np.full(1_000, 0.1), 0.05, 0.01)
    assert (lower == -np.inf).all()
    assert (upper == np.inf).all()
    assert len(asymptotic(np.zeros(0), 0.05, 0.01)[0]) == 0


def test_wealth_passes_one_over_alpha_exactly_where_zero_is_excluded() -> None:
    values = np.random.default_rng(3).normal(0.3, 1, 2_000)
    count = np.arange(1, 2_001, dtype=np.float64)
    lower, upper = asymptotic(values, 0.05, 0.01)
    wealth = log_wealth(count, *running_moments(values), 0.01)
    np.testing.assert_array_equal(wealth > math.log(20), (lower > 0) | (upper < 0))
    assert (lower > 0).any()


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01, 1e-4])
def test_the_tuned_width_is_the_smallest(alpha: float) -> None:
    exact = float(-lambertw(-(alpha**2) / math.e, k=-1).real)
    assert tightest_square(alpha) == pytest.approx(exact, rel=1e-12)
    best = minimize_scalar(lambda log: float(width(5_000, alpha, math.exp(log))), bounds=(-15, 0), method="bounded")
    assert tightest_at(5_000, alpha) == pytest.approx(math.exp(best.x), rel=1e-2)
    assert float(width(5_000, alpha, tightest_at(5_000, alpha))) == pytest.approx(math.sqrt(exact / 5_000))


@given(NUMBERS)
def test_moments_are_those_of_numpy(values: list[float]) -> None:
    table = np.array(values)
    mean, variance = running_moments(table)
    expected = [table[: stop + 1].var() for stop in range(len(table))]
    np.testing.assert_allclose(mean, np.cumsum(table) / np.arange(1, len(table) + 1), atol=1e-9)
    np.testing.assert_allclose(variance, expected, atol=1e-7)


@given(NUMBERS, st.floats(0.01, 100), st.floats(-100, 100))
def test_asymptotic_moves_and_scales_with_its_values(values: list[float], scale: float, shift: float) -> None:
    table = np.round(np.array(values), 3)
    lower, upper = asymptotic(table, 0.1, 0.05)
    mean = running_moments(table)[0]
    assert (lower <= mean).all()
    assert (mean <= upper).all()
    stretched = asymptotic(table * scale + shift, 0.1, 0.05)
    known = running_moments(table)[1] > 1e-6
    np.testing.assert_allclose(stretched[0][known], lower[known] * scale + shift, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(stretched[1][known], upper[known] * scale + shift, rtol=1e-4, atol=1e-3)


@given(NUMBERS)
def test_the_intersection_only_narrows(values: list[float]) -> None:
    lower, upper = intersection(*asymptotic(np.array(values), 0.1, 0.05))
    assert (lower[1:] >= lower[:-1]).all()
    assert (upper[1:] <= upper[:-1]).all()


def test_beta_binomial_by_hand() -> None:
    # 1 of 1: (t + 1) p > α, so p > α / 2. 0 of 1 is its mirror. 0 of 2: 3 (1 − p)² > α.
    lower, upper = beta_binomial([1, 0, 0], [1, 1, 2], 0.1)
    np.testing.assert_allclose(lower, [0.05, 0, 0], atol=1e-12)
    np.testing.assert_allclose(upper, [1, 0.95, 1 - math.sqrt(0.1 / 3)], atol=1e-12)


@settings(deadline=None)
@given(st.integers(1, 400).flatmap(lambda t: st.tuples(st.integers(0, t), st.just(t))), st.floats(0.001, 0.5))
def test_beta_binomial_ends_where_the_mixture_is_one_over_alpha(pair: tuple[int, int], alpha: float) -> None:
    s, t = pair
    lower, upper = (float(bound[0]) for bound in beta_binomial([s], [t], alpha))
    assert 0 <= lower <= s / t <= upper <= 1
    for p in (lower, upper):
        if 0 < p < 1:
            log_ratio = betaln(s + 1, t - s + 1) - s * math.log(p) - (t - s) * math.log1p(-p)
            assert log_ratio == pytest.approx(-math.log(alpha), abs=1e-6)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="successes"):
        beta_binomial([2], [1], 0.05)
    with pytest.raises(ValueError, match="values"):
        betting(np.array([1.5]), 0.05)


def naive_betting(values: list[float], alpha: float, grid: int) -> tuple[list[float], list[float]]:
    """The definition, mean by mean and value by value."""
    lower, upper, low, high = [], [], 0.0, 1.0
    rising, falling = [0.5] * (grid + 1), [0.5] * (grid + 1)
    total, squares, variance = 0.5, 0.25, 0.25
    for t, x in enumerate(values, 1):
        bet = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(1 + t)))
        for number in range(grid + 1):
            m = number / grid
            rising[number] *= 1 + min(bet, 0.5 / m if m else math.inf) * (x - m)
            falling[number] *= 1 - min(bet, 0.5 / (1 - m) if m < 1 else math.inf) * (x - m)
        low = max([low, *(number / grid for number in range(grid + 1) if rising[number] >= 1 / alpha)])
        high = min([high, *(number / grid for number in range(grid + 1) if falling[number] >= 1 / alpha)])
        total += x
        squares += (x - total / (t + 1)) ** 2
        variance = squares / (t + 1)
        lower.append(low)
        upper.append(high)
    return lower, upper


def test_betting_follows_its_definition_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.experiments.sequences._CELLS", 1_000)
    values = np.random.default_rng(1).beta(2, 5, 400)
    expected = naive_betting(values.tolist(), 0.05, 100)
    found = betting(values, 0.05, grid=100)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-12)
    assert found[1][-1] - found[0][-1] < 0.15


@given(st.lists(st.floats(0, 1), max_size=40))
def test_betting_stays_in_the_unit_interval_and_narrows(values: list[float]) -> None:
    lower, upper = betting(np.array(values), 0.05, grid=50)
    assert ((lower >= 0) & (upper <= 1)).all()
    assert (np.diff(lower) >= 0).all()
    assert (np.diff(upper) <= 0).all()


def test_betting_reads_a_hundred_thousand_values() -> None:
    values = (np.random.default_rng(2).random(100_000) < 0.3).astype(np.float64)
    lower, upper = betting(values, 0.05)
    assert lower[-1] <= 0.3 <= upper[-1]
    assert upper[-1] - lower[-1] < 0.02


def test_each_covers_at_every_look() -> None:
    """200 runs; 5 % of misses allowed and the three are far from it, so 10 in 200 is no matter of luck."""
    chance = np.random.default_rng(7)
    missed = np.zeros(3)
    for _ in range(200):
        values = (chance.random(1_000) < 0.2).astype(np.float64)
        trials = np.arange(1, 1_001)
        lower, upper = asymptotic(values, 0.05, tightest_at(1_000, 0.05))
        pairs = (
            (lower[100:], upper[100:]),
            betting(values[:300], 0.05, 100),
            beta_binomial(values.cumsum(), trials, 0.05),
        )
        missed += [((low > 0.2) | (high < 0.2)).any() for low, high in pairs]
    assert (missed <= 10).all()
