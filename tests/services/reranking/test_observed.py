"""Prices follow the traffic: scaled towards what batches really take, within bounds, never by a lone pair."""

from __future__ import annotations

import pytest

from services.contracts import CrossEncoderFacts
from services.reranking.observed import WIDEST, ObservedCost

FACTS = CrossEncoderFacts("m", "r", "int8", "t", (64, 128), (2.0, 4.0), (0.1, 0.2))


def test_prices_come_down_to_what_batches_take() -> None:
    cost = ObservedCost(FACTS)
    for _ in range(100):
        cost.note([64, 96, 128, 128], elapsed_ms=(2 + 3 + 4 + 4) / 4)
    assert cost.facts().cost_ms == pytest.approx((0.5, 1.0), rel=0.01)
    assert cost.facts().gflop == FACTS.gflop


def test_a_long_pair_is_expected_to_take_its_windows() -> None:
    cost = ObservedCost(FACTS)
    cost.note([512] * 4, elapsed_ms=4 * 4 * 4.0)
    assert cost.scale == pytest.approx(1.0)


def test_one_pair_alone_says_nothing_and_a_stall_is_bounded() -> None:
    cost = ObservedCost(FACTS)
    cost.note([64], elapsed_ms=1_000)
    assert cost.scale == 1.0
    for _ in range(500):
        cost.note([64] * 8, elapsed_ms=1e9)
    assert cost.scale == pytest.approx(WIDEST)


def test_facts_without_a_table_stay_as_they_are() -> None:
    bare = CrossEncoderFacts("m", "r", "int8", "t", (), (), ())
    cost = ObservedCost(bare)
    cost.note([64] * 8, elapsed_ms=5)
    assert cost.facts() == bare
