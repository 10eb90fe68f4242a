"""Logits become probabilities: monotone, robust at few labels, honest about their error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.reranking.calibration import Calibration, ece, fit_calibration, isotonic, reliability


def pairs(n: int, seed: int = 0, slope: float = 0.8, bias: float = -1.0) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    logits = chance.normal(-2, 3, n).astype(np.float32)
    labels = chance.random(n) < 1 / (1 + np.exp(-(slope * logits + bias)))
    return logits, labels.astype(np.float32)


def test_unfitted_is_the_plain_sigmoid():
    logits = np.array([-3.0, 0.0, 2.0, np.nan], np.float32)
    p = Calibration().probability(logits)
    assert p[:3] == pytest.approx(1 / (1 + np.exp(-logits[:3])), abs=1e-7)
    assert np.isnan(p[3])


def test_many_pairs_give_back_the_truth():
    logits, labels = pairs(20_000)
    fitted = fit_calibration(logits, labels)
    fresh, truth = pairs(20_000, seed=1)
    assert ece(fitted.probability(fresh), truth) < 0.01
    at = np.array([-4.0, -1.0, 1.0, 3.0])
    assert fitted.probability(at) == pytest.approx(1 / (1 + np.exp(-(0.8 * at - 1))), abs=0.03)
    assert fitted.misfit < 0.005, "the truth is in the family, so isotonic regression has nothing to add"


def test_the_opinion_is_the_probability_at_even_odds():
    logits, labels = pairs(20_000, bias=-4.0)
    fitted = fit_calibration(logits, labels)
    share = labels.mean()
    assert fitted.base == pytest.approx(np.log(share / (1 - share)), abs=0.03)
    odds = fitted.probability([1.0])[0] / (1 - fitted.probability([1.0])[0])
    balanced = odds * (1 - share) / share
    assert fitted.opinion([1.0])[0] == pytest.approx(balanced / (1 + balanced), rel=0.02)
    assert Calibration().opinion(logits).tobytes() == Calibration().probability(logits).tobytes()
    one = fit_calibration([0.0], [1.0], prior=fitted)
    assert one.opinion([5.0])[0] == pytest.approx(fitted.opinion([5.0])[0], abs=0.15), "one label moves little"
    assert np.isfinite(fit_calibration([0.0, 1.0], [1.0, 1.0]).base), "labels of one kind leave the base finite"


def test_a_bend_at_zero_is_followed():
    chance = np.random.default_rng(3)
    logits = chance.normal(0, 4, 20_000)
    p = 1 / (1 + np.exp(-np.where(logits < 0, 1.0 * logits, 0.2 * logits)))
    labels = chance.random(len(p)) < p
    fitted = fit_calibration(logits, labels)
    assert ece(fitted.probability(logits), labels) < 0.025
    assert fitted.low > 2 * fitted.high


def test_one_pair_moves_little_and_none_nothing():
    prior = Calibration(low=0.5, high=0.5, bias=-1.0)
    assert fit_calibration([], [], prior=prior) == prior
    one = fit_calibration([4.0], [0.0], prior=prior)
    assert one.probability([0.0])[0] == pytest.approx(prior.probability([0.0])[0], abs=0.1)
    assert (one.pairs, one.positives) == (1, 0)


def test_all_one_label_stays_finite():
    for label in (0.0, 1.0):
        fitted = fit_calibration(np.linspace(-8, 8, 50), np.full(50, label))
        assert np.isfinite(fitted.probability(np.array([-100.0, 0.0, 100.0]))).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-30, 30, width=32), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60),
)
def test_never_falls_in_the_logit(rows: list[tuple[float, float]]):
    logits, labels = zip(*rows, strict=True)
    fitted = fit_calibration(logits, labels)
    p = fitted.probability(np.linspace(-60, 60, 241))
    assert (np.diff(p) >= 0).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert Calibration.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_a_model_that_knows_nothing_is_flattened_not_turned():
    chance = np.random.default_rng(1)
    logits = chance.normal(0, 3, 5_000)
    labels = chance.random(5_000) < 1 / (1 + np.exp(logits))  # the more it says yes, the less it is true
    fitted = fit_calibration(logits, labels)
    assert (fitted.low, fitted.high) == (0.0, 0.0)
    assert fitted.probability([0.0])[0] == pytest.approx(labels.mean(), abs=0.02)


def test_soft_labels_and_weights_count():
    hard = fit_calibration([1.0, 1.0, -1.0], [1.0, 0.0, 0.0])
    soft = fit_calibration([1.0, -1.0], [0.5, 0.0], weights=[2.0, 1.0])
    assert (soft.low, soft.high, soft.bias) == pytest.approx((hard.low, hard.high, hard.bias), abs=1e-6)


def test_ece_by_hand():
    # Two bins of two pairs: said .15, true 0; said .85, true .5.
    assert ece([0.1, 0.2, 0.8, 0.9], [0, 0, 0, 1], bins=2) == pytest.approx((0.15 + 0.35) / 2)
    assert ece([], []) == 0.0
    assert ece([0.3] * 10, [1] * 3 + [0] * 7) == pytest.approx(0.0, abs=1e-9)


def test_ece_leaves_unscored_pairs_out():
    assert ece([0.5, np.nan], [1, 0], bins=1) == pytest.approx(0.5)
    assert [len(part) for part in reliability([0.5, np.nan], [1, 0])] == [1, 1, 1]


def test_isotonic_pools_what_falls():
    assert isotonic(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.0, 1.0])) == pytest.approx([0, 0.5, 0.5, 1])
    assert isotonic(np.array([2.0, 2.0, 1.0]), np.array([1.0, 0.0, 1.0])) == pytest.approx([2 / 3] * 3)
