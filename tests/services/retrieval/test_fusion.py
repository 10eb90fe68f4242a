"""The fused order against its formula, and weights learned where the right answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts import Candidates, Passage, Span
from services.retrieval.fusion import FusionProfile, best_cosine, fuse
from services.retrieval.learning import (
    MIN_LABELS,
    WEIGHTS,
    at_weights,
    code_share,
    corpus_profile,
    cross_fitted,
    fit_profile,
)
from services.retrieval.uncertainty import features, uncertainty


def candidates(dense, sparse, legs=("dense", "sparse")):
    dense, sparse = np.array(dense, np.float32), np.array(sparse, np.float32)
    n = len(dense)
    dense_rank = np.zeros(n, np.int32)
    dense_rank[np.argsort(-dense, kind="stable")] = np.arange(1, n + 1)
    sparse_rank = np.zeros(n, np.int32)
    hits = np.flatnonzero(sparse > 0)
    sparse_rank[hits[np.argsort(-sparse[hits], kind="stable")]] = np.arange(1, len(hits) + 1)
    passages = tuple(
        Passage(f"c{i}", f"d{i}", "", "", "", "default", 0, Span(0, 0), None, None, {}, 1) for i in range(n)
    )
    vectors = np.zeros((n, 2), np.float32)
    return Candidates(passages, dense, sparse, dense_rank, sparse_rank, vectors, np.zeros(2, np.float32), legs)


def test_formula():
    found = candidates([0.9, 0.5, 0.1], [0.0, 8.0, 4.0])
    fusion = fuse(found, "hybrid", FusionProfile(bias=0.0, slope=0.0, source="labels"))
    # minmax(dense) = 1, .5, 0; minmax(sparse) over its own two rows = (clipped) 0, 1, 0; w = 1/2
    assert fusion.score.tolist() == pytest.approx([0.5, 0.75, 0.0])
    assert fusion.order.tolist() == [1, 0, 2]
    assert fusion.rank.tolist() == [2, 1, 3]
    assert (fusion.weight, fusion.source) == (0.5, "labels")


def test_weight_grows_with_the_best_cosine():
    profile = FusionProfile(bias=-3.0, slope=5.0)
    assert best_cosine(candidates([0.9, 0.2], [0, 1])) == pytest.approx(0.9)
    assert profile.weight(0.9) == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert profile.weight(0.9) > profile.weight(0.3)
    assert 0 < FusionProfile(bias=1e9).weight(1.0) <= 1


@pytest.mark.parametrize(("mode", "legs", "weight"), [("dense", ("dense", "sparse"), 1), ("sparse", ("sparse",), 0)])
def test_one_leg_is_its_own_order(mode, legs, weight):
    found = candidates([0.9, 0.5, 0.1], [1.0, 8.0, 4.0], legs)
    fusion = fuse(found, mode, FusionProfile())
    expected = np.argsort(-(found.dense if mode == "dense" else found.sparse), kind="stable")
    assert fusion.order.tolist() == expected.tolist()
    assert (fusion.weight, fusion.source) == (weight, "mode")


@pytest.mark.parametrize(("leg", "weight"), [("dense", 1.0), ("sparse", 0.0)])
def test_a_missing_leg_leaves_the_other(leg, weight):
    assert fuse(candidates([0.9, 0.5], [1.0, 8.0], (leg,)), "hybrid", FusionProfile()).weight == weight


def test_nothing_found():
    empty = candidates([], [])
    assert len(fuse(empty, "hybrid", FusionProfile()).order) == 0
    assert uncertainty(empty, fuse(empty, "hybrid", FusionProfile())) is None


scores = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.one_of(st.just(0.0), st.floats(0.125, 50, width=32))),
    min_size=1,
    max_size=30,
)


@given(scores, st.floats(-5, 5), st.floats(-5, 5))
def test_always_a_ranking(rows, bias, slope):
    found = candidates(*zip(*rows, strict=True))
    fusion = fuse(found, "hybrid", FusionProfile(bias, slope))
    assert sorted(fusion.order.tolist()) == list(range(len(rows)))
    assert fusion.rank[fusion.order].tolist() == list(range(1, len(rows) + 1))
    assert np.all(np.diff(fusion.score[fusion.order]) <= 0)
    assert 0 <= fusion.score.min() <= fusion.score.max() <= 1.0001
    assert 0 <= uncertainty(found, fusion) <= 1


def test_uncertainty_orders_sure_before_unsure():
    sure = candidates([0.9] + [0.1] * 19, [20.0] + [1.0] * 19)
    unsure = candidates(np.linspace(0.5, 0.49, 20), np.linspace(5.0, 5.1, 20))
    low, high = (uncertainty(found, fuse(found, "hybrid", FusionProfile())) for found in (sure, unsure))
    assert low < 0.35 < high
    assert features(sure, fuse(sure, "hybrid", FusionProfile())).agreement >= 0.1


def test_profile_survives_json():
    profile = FusionProfile(0.25, 3.0, "labels")
    assert FusionProfile.from_json(profile.to_json()) == profile
    assert FusionProfile.from_json(None) == FusionProfile()


PROSE = "The committee met on Monday and agreed on a budget for the coming year, which the council will vote on."
CODE = "def read(path):\n    with open(path) as file:\n        return {k: v for k, v in json.load(file).items()}"


def test_code_raises_the_dense_share():
    assert code_share([PROSE] * 3 + [CODE]) == 0.25
    assert code_share([]) == 0.0
    assert corpus_profile([CODE] * 5).weight(0.6) > 0.7 > 0.5 > corpus_profile([PROSE] * 5).weight(0.6)
    assert corpus_profile([PROSE]).source == "corpus"
    assert corpus_profile([]) == FusionProfile()


def made_curves(best, n, seed=0):
    """Questions whose metric falls off linearly from a best weight, with noise."""
    rng = np.random.default_rng(seed)
    return np.clip(1 - np.abs(WEIGHTS[None, :] - np.asarray(best)[:, None]) + rng.normal(0, 0.05, (n, 21)), 0, 1)


@pytest.mark.parametrize("best", [0.1, 0.5, 0.95])
def test_labels_find_a_constant_weight(best):
    cosines = np.random.default_rng(1).uniform(0.4, 0.8, 200)
    profile = fit_profile(made_curves(np.full(200, best), 200), cosines)
    assert profile.source == "labels"
    assert profile.weight(0.6) == pytest.approx(best, abs=0.07)


def test_labels_find_a_weight_that_follows_the_cosine():
    cosines = np.random.default_rng(2).uniform(0.3, 0.9, 300)
    curves = made_curves(np.where(cosines > 0.6, 0.95, 0.1), 300)
    profile = fit_profile(curves, cosines)
    assert profile.slope >= 10
    assert profile.weight(0.85) > 0.8 > 0.2 > profile.weight(0.35)
    fitted = cross_fitted(curves, cosines).mean()
    assert fitted > curves.mean(axis=0).max() + 0.1


def test_few_labels_decide_nothing():
    few = MIN_LABELS - 1
    assert fit_profile(made_curves(np.full(few, 0.9), few), np.full(few, 0.5)) == FusionProfile()


def test_between_the_points_the_curve_is_linear():
    curve = np.arange(21.0)[None, :]
    assert at_weights(curve, np.array([0.525]))[0] == pytest.approx(10.5)
    assert at_weights(curve, np.array([1.0]))[0] == 20
