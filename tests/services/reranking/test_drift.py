"""The e-process: quiet while the loss holds, an alarm when it does not, whatever came before."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.reranking.drift import ALARM, Drift, begin, bet, watch

AT = "2026-11-26T00:00:00+00:00"


def alarm_at(losses: Callable[[int], float], steps: int, alpha: float = 0.05) -> int | None:
    state = begin("c_1", alpha)
    for step in range(steps):
        state = watch(state, losses(step), AT)
        if state.alarmed_at:
            return step
    return None


def test_nothing_is_bet_before_a_loss_was_seen():
    state = begin("c_1", 0.05)
    assert bet(state) == 0.0
    assert watch(state, 1.0, AT).wealth == 1.0


def test_the_second_loss_by_hand():
    # After one loss of 1: m = .05 + ½ · .95 = .525, v = ½ · (.0475 + ½ · .95²) = .249375.
    state = watch(begin("c_1", 0.05), 1.0, AT)
    assert (state.mean, state.variance) == pytest.approx((0.525, 0.249375))
    stake = 0.475 / (0.249375 + 0.475**2)
    assert bet(state) == pytest.approx(stake)
    assert watch(state, 0.5, AT).wealth == pytest.approx(1 + stake * 0.45)


def test_false_alarms_are_rare_however_long_it_is_watched():
    chance = np.random.default_rng(2)
    alarms = sum(alarm_at(lambda _: (chance.random() < 0.5) * 0.1, 1_500) is not None for _ in range(120))
    # On the border of the null at most 1/20 ever alarm: 6 are expected, 14 has probability .003.
    assert alarms < 14


def test_a_drift_after_quiet_months_is_seen_as_soon_as_one_at_the_start():
    chance = np.random.default_rng(3)

    def delay(quiet: int) -> float:
        found = [
            alarm_at(lambda step: (chance.random() < 0.5) * (0.05 if step < quiet else 0.3), quiet + 400)
            for _ in range(40)
        ]
        assert None not in found
        return float(np.median([step - quiet for step in found if step is not None]))

    assert delay(1_000) <= delay(0) + 40


def test_an_alarm_stays():
    state = begin("c_1", 0.05)
    for _ in range(60):
        state = watch(state, 0.5, AT)
    assert state.alarmed_at == AT
    assert state.wealth > ALARM
    for _ in range(500):
        state = watch(state, 0.0, "2027-01-01T00:00:00+00:00")
    assert state.alarmed_at == AT


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=80), st.floats(0.001, 1))
def test_wealth_is_positive_and_finite_and_the_state_survives_json(losses: list[float], alpha: float):
    state = begin("c_1", alpha)
    for loss in losses:
        state = watch(state, loss, AT)
        assert 0 < state.wealth < float("inf")
        assert 0 <= bet(state) <= 0.5 / state.alpha
    assert Drift.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_a_loss_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="a loss lies in"):
        watch(begin("c_1", 0.1), 1.5, AT)
