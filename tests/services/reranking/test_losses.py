"""The three losses of an order against the full rerank's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reranking.losses import dcg, evidence_miss, fidelity_loss, ideal_dcg, ndcg, regret


def test_ndcg_by_hand():
    assert dcg([1, 0, 2]) == pytest.approx(1 + 2 / 2)
    assert ndcg([2, 0, 1], [0, 1, 2]) == pytest.approx(2 / (2 + 1 / np.log2(3)) + (1 / 2) / (2 + 1 / np.log2(3)))
    assert ndcg([0], [0.0]) == 0.0


def test_what_was_not_retrieved_counts_through_the_ideal():
    assert ndcg([0], [1.0], ideal_dcg([1.0, 1.0])) == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_regret_is_one_sided():
    assert regret(0.5, 0.7) == pytest.approx(0.2)
    assert regret(0.9, 0.7) == 0.0


def test_evidence_counts_only_what_the_full_rerank_showed():
    relevant = np.array([True, True, False, True])
    assert evidence_miss([2, 0, 1, 3], [0, 1, 2, 3], relevant, 2) == 0.5
    assert evidence_miss([3, 2, 1, 0], [2, 3, 0, 1], [True, True, False, False], 2) == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_best_order_loses_no_fidelity(p: list[float]):
    best = np.argsort(-np.array(p), kind="stable")
    assert fidelity_loss(best, p) == pytest.approx(0.0, abs=1e-9)
    assert 0.0 <= fidelity_loss(best[::-1], p) <= 1.0
