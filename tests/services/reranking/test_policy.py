"""The policy: values by hand, its promises for every question, the same bits every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.reranking.calibration import Calibration
from services.reranking.facts import Costs, CostTable, Facts, Limits
from services.reranking.policy import (
    conclude,
    decide,
    observe,
    simulate,
    start,
)
from services.reranking.predictor import Predictor, Scale
from services.reranking.profile import PRICES, Profile
from services.reranking.valuation import final_score, gains
from tests.services.reranking.questions import COSTS, asked, permuted, profile

FITTED = profile()
PRICE = st.sampled_from(PRICES)
SEED = st.integers(0, 500)


def by_hand(fused: list[float], levels: list[float], blend: float = 1.0) -> tuple[Facts, Profile]:
    """A predictor that knows nothing: of two levels of logits each is as likely. Worth is σ of the final score."""
    count = len(fused)
    facts = Facts(
        question=np.zeros(1, np.float32),
        rows=np.zeros((count, 1), np.float32),
        fused=np.array(fused, np.float32),
        rank=np.arange(1, count + 1, dtype=np.int32),
        tokens=np.full(count, 200, np.int32),
        flagged=np.zeros(count, np.bool_),
    )
    same = Scale(np.array([-8.0, 8.0]), np.array([-8.0, 8.0]))
    predictor = Predictor(
        center=np.zeros(2), scale=np.ones(2), weights=np.zeros(3), omega=1e-9 * np.eye(2), noise=1.0, large=same,
        small=same, offset=0.0, slope=1.0, small_noise=1.0, edges=np.zeros(1), levels=np.array(levels),
    )  # fmt: skip
    return facts, Profile(predictor, {"large": Calibration()}, blend, worth=(1.0, 0.0))


def test_the_gain_of_one_candidate_by_hand() -> None:
    # Two candidates, logits −2 or 2 alike: p = .1192 or .8808, expected .5 each, so the first stage decides the order.
    facts, known = by_hand([0.9, 0.1], [-2.0, 2.0])
    state = start(facts, known, 0.01, COSTS, Limits())
    view = state.view
    np.testing.assert_allclose(view.opinion, [0.5, 0.5], atol=1e-6)
    assert view.place.tolist() == [0, 1]
    low, high = (1 / (1 + np.exp(-p)) for p in (0.119203, 0.880797))  # worth σ(p)
    held, second = (low + high) / 2, 1 / np.log2(3)
    # The first falls behind the second when it turns out low, the second overtakes when it turns out high.
    ideal = max(1.0, held * (1 + second))
    falls = 0.5 * ((held - low) * (1 - second)) / ideal
    rises = 0.5 * ((high - held) * (1 - second)) / ideal
    np.testing.assert_allclose(gains(state.ground, view, "large", np.arange(2)), [falls, rises], rtol=1e-5)


def test_a_small_logit_moves_less_than_a_large_one() -> None:
    facts, known = by_hand([0.9, 0.1], [-2.0, 2.0])
    state = start(facts, known, 0.01, COSTS, Limits())
    view, both = state.view, np.arange(2)
    small = gains(state.ground, view, "small", both)
    assert (small > 0).all()
    assert (small < gains(state.ground, view, "large", both)).all()


def test_nothing_is_asked_where_a_logit_has_no_say() -> None:
    one = asked(1)
    verdict = simulate(one.facts, one.logits, replace(FITTED, blend=0.0), PRICES[1], COSTS, Limits())
    assert (verdict.pairs, verdict.stop) == (0, "worth")
    assert verdict.order.tolist() == np.argsort(one.facts.rank).tolist()
    assert set(verdict.reasons) == {"skipped_confident"}


@given(SEED)
@settings(max_examples=20, deadline=None)
def test_price_zero_is_the_full_rerank(seed: int) -> None:
    one = asked(seed)
    verdict = simulate(one.facts, one.logits, FITTED, 0.0, COSTS, Limits())
    opinion = FITTED.opinion(one.logits["large"])
    score = final_score(FITTED.blend, opinion, one.facts.fused)
    assert verdict.order.tolist() == np.lexsort((one.facts.rank, -score)).tolist()
    assert (verdict.pairs, len(verdict.steps), verdict.stop) == (100, 1, "complete")
    assert set(verdict.reasons) == {"escalated"}
    assert verdict.regret == 0


@given(SEED, PRICE, PRICE)
@settings(max_examples=40, deadline=None)
def test_a_higher_price_takes_a_beginning_of_what_a_lower_one_takes(seed: int, one_price: float, other: float) -> None:
    one, (low, high) = asked(seed), sorted((one_price, other))
    cheap = simulate(one.facts, one.logits, FITTED, low, COSTS, Limits())
    dear = simulate(one.facts, one.logits, FITTED, high, COSTS, Limits())
    assert dear.pairs <= cheap.pairs
    if low > 0:
        taken = [(step.action.kind, step.action.rows.tolist()) for step in cheap.steps]
        assert [(step.action.kind, step.action.rows.tolist()) for step in dear.steps] == taken[: len(dear.steps)]


@given(SEED, PRICE, st.integers(0, 60), st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_no_pair_twice_nothing_below_the_depth_no_more_than_the_quota(
    seed: int, price: float, quota: int, depth: int
) -> None:
    one = asked(seed)
    verdict = simulate(one.facts, one.logits, FITTED, price, COSTS, Limits(depth=depth, pairs=quota))
    for kind in ("small", "large"):
        rows = [row for step in verdict.steps if step.action.kind == kind for row in step.action.rows.tolist()]
        assert len(rows) == len(set(rows))
        assert all(one.facts.rank[row] <= depth for row in rows)
    assert verdict.pairs <= min(quota, depth)


@given(SEED, PRICE, st.floats(0, 300), st.floats(0.5, 3))
@settings(max_examples=40, deadline=None)
def test_the_budget_is_overstepped_by_less_than_one_batch(
    seed: int, price: float, budget: float, slowness: float
) -> None:
    one = asked(seed)
    state = start(one.facts, FITTED, price, COSTS, Limits(budget=budget))
    before = 0.0
    while (action := decide(state)).kind != "stop":
        assert state.spent + action.cost <= budget + 1e-9
        before = state.spent
        said = one.logits[action.kind][action.rows]
        state = observe(state, action, said, np.zeros(len(said), np.bool_), slowness * action.cost)
    assert before <= budget


@given(SEED, PRICE)
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_candidates_changes_nothing(seed: int, price: float) -> None:
    one = asked(seed)
    moved = np.random.default_rng(seed).permutation(100)
    verdict = simulate(one.facts, one.logits, FITTED, price, COSTS, Limits())
    other = permuted(one, moved)
    again = simulate(other.facts, other.logits, FITTED, price, COSTS, Limits())
    assert moved[again.order].tolist() == verdict.order.tolist()
    assert again.score.tobytes() == verdict.score[moved].tobytes()
    assert again.regret == verdict.regret
    assert list(again.reasons) == [verdict.reasons[row] for row in moved]


def test_the_same_facts_give_the_same_bits() -> None:
    one = asked(7)
    first, second = (simulate(one.facts, one.logits, FITTED, 1e-3, COSTS, Limits()) for _ in range(2))
    for name in ("order", "score", "probability", "top"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_adaptive_keeps_most_of_the_gain_for_a_part_of_the_pairs() -> None:
    some = [asked(seed) for seed in range(40)]
    full, thrifty, none = (
        [simulate(one.facts, one.logits, FITTED, price, COSTS, Limits()) for one in some] for price in (0.0, 1e-3, 9.0)
    )

    def quality(verdicts: list) -> float:
        shown = [one.relevant[verdict.order[:10]].sum() for one, verdict in zip(some, verdicts, strict=True)]
        return float(np.mean(shown))

    kept = (quality(thrifty) - quality(none)) / (quality(full) - quality(none))
    assert kept > 0.75
    assert np.mean([verdict.spent for verdict in thrifty]) < 0.6 * np.mean([verdict.spent for verdict in full])


def test_flagged_candidates_of_the_first_page_are_shown_to_the_large_model_at_any_price() -> None:
    one = asked(3)
    flagged = one.facts.rank == 2
    facts = replace(one.facts, flagged=flagged)
    verdict = simulate(facts, one.logits, FITTED, 1e9, COSTS, Limits())
    assert verdict.pairs == 1
    assert verdict.reasons[int(np.flatnonzero(flagged)[0])] == "flagged"
    assert verdict.steps[0].action.kind == "large"


def test_cached_pairs_are_told_apart_from_scored_ones() -> None:
    one = asked(5)
    state = start(one.facts, FITTED, 0.0, COSTS, Limits(depth=4))
    action = decide(state)
    known = np.array([True, False, True, True])
    verdict = conclude(observe(state, action, one.logits["large"][action.rows], known, 1.0))
    assert (verdict.pairs, verdict.cached) == (1, 3)
    assert sorted(verdict.reasons[row] for row in action.rows) == ["cached", "cached", "cached", "escalated"]


@pytest.mark.parametrize("count", [1, 2, 9, 11])
def test_few_candidates(count: int) -> None:
    one = asked(11, count)
    for price in (0.0, 1e-4, 1.0):
        verdict = simulate(one.facts, one.logits, FITTED, price, COSTS, Limits())
        assert sorted(verdict.order.tolist()) == list(range(count))
        assert verdict.pairs <= count


def test_with_one_model_only() -> None:
    one = asked(2)
    for role in ("small", "large"):
        costs = Costs({role: COSTS.tables[role]})
        full = simulate(one.facts, one.logits, FITTED, 0.0, costs, Limits())
        assert {step.action.kind for step in full.steps} == {role}
        assert full.pairs == 100
        assert simulate(one.facts, one.logits, FITTED, 1e-4, costs, Limits()).pairs <= 100


def test_costs_are_interpolated_and_long_pairs_cost_their_windows() -> None:
    table = CostTable((100, 200), (1.0, 3.0))
    np.testing.assert_allclose(table.of([50, 100, 150, 200, 400]), [1, 1, 2, 3, 6])
    assert COSTS.unit == 4.0
