"""Sample-ratio mismatch: the product by hand, its closed form by scipy, false alarms at any look, planted losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import binom

from jobs.experiments.ratio import CONCENTRATIONS, mismatch, mismatch_series


def log_mixture(counts: list[int], shares: list[float]) -> float:
    """Dirichlet-multinomial over multinomial, by scipy."""
    total, s, theta = -math.inf, np.array(counts), np.array(shares)
    for c, capital in CONCENTRATIONS:
        marginal = gammaln(c) - gammaln(c + s.sum()) + (gammaln(c * theta + s) - gammaln(c * theta)).sum()
        total = np.logaddexp(total, math.log(capital) + marginal - float(s @ np.log(theta)))
    return float(total)


def test_two_units_by_hand() -> None:
    # The first unit tells nothing. The second in the same arm: (c/2 + 1) / ((c + 1)/2) = (c + 2) / (c + 1).
    expected = sum(capital * (c + 2) / (c + 1) for c, capital in CONCENTRATIONS)
    assert mismatch([1, 0], [0.5, 0.5]).e_value == pytest.approx(1.0, abs=1e-6)
    assert mismatch([2, 0], [0.5, 0.5]).e_value == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(0, 3_000), min_size=3, max_size=3))
def test_counts_agree_with_scipy(counts: list[int]) -> None:
    found = mismatch(counts, [0.6, 0.3, 0.1])
    assert math.log(found.e_value) == pytest.approx(min(700.0, log_mixture(counts, [0.6, 0.3, 0.1])), abs=1e-5)
    assert found.p == pytest.approx(min(1.0, 1 / found.e_value))
    assert found.alarmed == (found.p < 0.01)


@given(st.lists(st.integers(0, 2), max_size=200))
def test_the_series_ends_at_the_counts(arms: list[int]) -> None:
    table = np.array(arms, np.int8)
    series = mismatch_series(table, [0.5, 0.3, 0.2])
    assert len(series) == len(arms)
    for stop in {len(arms) // 2, len(arms)} - {0}:
        counts = np.bincount(table[:stop], minlength=3)
        assert series[stop - 1] == pytest.approx(math.log(mismatch(counts, [0.5, 0.3, 0.2]).e_value), abs=1e-5)


def test_the_capital_is_spread_in_full() -> None:
    assert sum(capital for _, capital in CONCENTRATIONS) == 1.0
    assert mismatch([0, 0], [0.5, 0.5]).e_value == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_capital_is_one_in_expectation(share: float) -> None:
    """Exactly, over every count that 500 units can give: by Ville no more than 1 % of runs ever pass 100."""
    chances = binom.pmf(np.arange(501), 500, share)
    capital = [mismatch([500 - hits, hits], [1 - share, share]).e_value for hits in range(501)]
    assert float(chances @ np.array(capital)) == pytest.approx(1.0, abs=1e-7)


def test_false_alarms_at_any_look() -> None:
    """A martingale of mean 1 passes 100 in at most 1 % of runs; 400 runs with more than 8 alarms would be one in 60."""
    chance = np.random.default_rng(5)
    arms = ((chance.random(5_000) < 0.1).astype(np.int8) for _ in range(400))
    assert sum((mismatch_series(one, [0.9, 0.1]) > math.log(100)).any() for one in arms) <= 8


def test_a_broken_arm_and_a_small_loss_are_both_seen() -> None:
    chance = np.random.default_rng(6)
    broken = mismatch_series((chance.random(2_000) < 1 / 3).astype(np.int8), [0.5, 0.5])
    assert np.flatnonzero(broken > math.log(100))[0] < 300
    lost = (chance.random(300_000) < 0.97 / 1.97).astype(np.int8)
    assert mismatch(np.bincount(lost), [0.5, 0.5]).alarmed
    assert not mismatch([500_300, 499_700], [0.5, 0.5]).alarmed


def test_a_gross_mismatch_does_not_overflow() -> None:
    found = mismatch([10**6, 0], [0.5, 0.5])
    assert found.alarmed
    assert math.isfinite(found.e_value)


@pytest.mark.parametrize(
    ("counts", "shares"), [([1], [1.0]), ([1, 2, 3], [0.5, 0.5]), ([1, 2], [0.5, 0.6]), ([-1, 2], [0.5, 0.5])]
)
def test_bad_tables_are_refused(counts: list[int], shares: list[float]) -> None:
    with pytest.raises(ValueError, match="arm"):
        mismatch(counts, shares)
