"""The estimate of position bias against simulated users whose bias is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.training.propensity import CLIP, RANKS, Seen, estimate, prior


def simulated(p, items=400, showings=200, *, moves=True, seed=1):
    """Position-based users: each result has a relevance; with `moves` its rank is drawn anew in every showing.

    Better results stand higher where nothing moves, as in a search that works.
    """
    rng = np.random.default_rng(seed)
    relevance = np.sort(rng.uniform(0.05, 0.9, items))[::-1]
    home = np.arange(items) * len(p) // items
    item = np.repeat(np.arange(items), showings)
    near = np.clip(home[item] + rng.integers(-2, 3, len(item)), 0, len(p) - 1)
    rank = near if moves else home[item]
    clicks = (rng.random(len(item)) < p[rank] * relevance[item]).astype(np.int64)
    return Seen(item, rank + 1, np.ones(len(item), np.int64), clicks)


@pytest.mark.parametrize(
    "p",
    [
        1.0 / np.arange(1, 11) ** 0.5,
        1.0 / np.arange(1, 11) ** 1.5,
        np.array([1.0, 0.9, 0.85, 0.4, 0.35, 0.3, 0.28, 0.26, 0.25, 0.2]),  # no power law: a fold below the third
    ],
)
def test_the_bias_of_simulated_users_is_recovered(p):
    found = estimate(simulated(p))
    assert found.clicks > 1_000
    np.testing.assert_allclose(found.p[: len(p)], p, rtol=0.15)


def test_clicks_by_rank_alone_would_blame_the_position_for_relevance():
    """The same users and results: the raw rates fall much faster than the looks do."""
    p = 1.0 / np.arange(1, 11) ** 0.5
    seen = simulated(p)
    raw = np.array([seen.clicks[seen.rank == rank].mean() for rank in range(1, 11)])
    assert raw[9] / raw[0] < 0.5 * p[9]
    assert estimate(seen).at(10) == pytest.approx(p[9], rel=0.15)


def test_where_nothing_ever_moved_nothing_is_learned():
    found = estimate(simulated(1.0 / np.arange(1, 11) ** 0.5, moves=False))
    assert found.clicks == 0
    np.testing.assert_array_equal(found.p, prior().p)


def test_few_clicks_move_the_estimate_little():
    p = np.ones(10)  # everything is looked at, far from the prior
    few, many = (estimate(simulated(p, items, 30)) for items in (2, 400))
    assert abs(few.at(10) - 0.1) < abs(many.at(10) - 0.1)
    assert many.at(10) > 0.8
    assert few.at(10) < 0.6


def test_a_click_weighs_what_it_is_divided_by_up_to_the_clip():
    assert [prior().weight(rank) for rank in (1, 4, 10, 30, 1_000)] == pytest.approx([1, 4, 10, CLIP, CLIP])
    assert prior().at(RANKS + 50) == pytest.approx(1 / (RANKS + 50))


def test_an_empty_log_is_the_prior():
    nothing = np.zeros(0, np.int64)
    np.testing.assert_array_equal(estimate(Seen(nothing, nothing, nothing, nothing)).p, prior().p)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 120), st.integers(1, 1_000), st.floats(0, 1)),
        max_size=40,
    )
)
def test_whatever_was_clicked_the_chances_are_positive_and_finite(rows):
    columns = [(item, rank, shown, int(shown * share)) for item, rank, shown, share in rows]
    item, rank, shown, clicks = np.array(columns, np.int64).reshape(-1, 4).T
    found = estimate(Seen(item, rank, shown, clicks))
    assert np.isfinite(found.p).all()
    assert (found.p > 0).all()
    assert found.p[0] == 1.0
