"""Planning: the formula by hand, its inverse, and the power that a simulation finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.experiments.effects import effect
from jobs.experiments.power import detectable, planned_units

HALF = (0.5, 0.5)


def test_the_plan_by_hand() -> None:
    # α = .05: y − log y = 1 − 2 log .05 gives y = 9.2120; z = .8416; mean 10, deviation 5, +10 %.
    y = 9.2120
    assert y - math.log(y) == pytest.approx(1 - 2 * math.log(0.05), abs=1e-3)
    expected = ((math.sqrt(y) + 0.8416) * 5 / (10 * 0.1)) ** 2 * (2 + 1.1**2 * 2)
    assert planned_units(10, 5, 0.1, 0.05, 0.8, HALF) == pytest.approx(expected, rel=1e-3)


def test_a_small_effect_takes_about_twice_a_z_test() -> None:
    deviation = math.sqrt(0.21)
    z_test = 4 * ((1.95996 + 0.84162) * deviation / 0.009) ** 2
    assert planned_units(0.3, deviation, 0.03, 0.05, 0.8, HALF) / z_test == pytest.approx(1.97, abs=0.01)


def test_more_arms_share_alpha_and_the_smallest_decides() -> None:
    one = planned_units(10, 5, 0.1, 0.025, 0.8, (0.5, 0.5))
    assert planned_units(10, 5, 0.1, 0.05, 0.8, (0.4, 0.4, 0.2)) > one
    thirds = planned_units(10, 5, 0.1, 0.05, 0.8, (1 / 3, 1 / 3, 1 / 3))
    assert thirds == pytest.approx(one * 1.5, abs=2)


def test_a_plan_is_never_shorter_than_the_burn_in_takes() -> None:
    assert planned_units(10, 0.1, 1.0, 0.05, 0.8, (0.9, 0.1)) == 1_000
    assert detectable(999, 10, 0.1, 0.05, 0.8, (0.9, 0.1)) == math.inf


def test_nothing_is_found_of_a_mean_of_zero() -> None:
    assert detectable(10_000, 0, 1, 0.05, 0.8, HALF) == math.inf
    with pytest.raises(ValueError, match="mean of 0"):
        planned_units(0, 1, 0.1, 0.05, 0.8, HALF)


@given(st.floats(0.005, 0.5), st.floats(0.1, 3), st.floats(0.5, 0.95), st.floats(0.1, 0.9))
def test_what_a_plan_can_detect_is_what_it_was_made_for(
    effect: float, spread: float, power: float, share: float
) -> None:
    shares = (1 - share, share)
    n = planned_units(-2.0, 2 * spread, effect, 0.05, power, shares)
    found = detectable(n, -2.0, 2 * spread, 0.05, power, shares)
    floor = math.ceil(100 / min(shares))
    assert found == pytest.approx(effect, rel=5e-3) or (n == floor and found < effect)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_planned_power_is_there(share: float) -> None:
    """400 runs at a power of .8: a standard error of .02, so .75 is two and a half of them away."""
    shares, chance, found = (1 - share, share), np.random.default_rng(9), 0
    n = planned_units(0.3, math.sqrt(0.21), 0.2, 0.05, 0.8, shares)
    for _ in range(400):
        arm = (chance.random(n) < share).astype(np.int8)
        value = (chance.random(n) < 0.3 * (1 + 0.2 * arm)).astype(np.float64)
        found += effect(arm, value, np.full(n, np.nan), np.array(shares), 0.05, n)[0].lower > 0
    assert 0.75 <= found / 400 <= 0.9
