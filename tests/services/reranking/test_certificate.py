"""The certificate: p-values by hand, validity and power by simulation, expiry, and which one holds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.reranking.certificate import (
    Certificate,
    Conditions,
    affordable,
    broken,
    conditions_of,
    fixed_sequence,
    group_of,
    hoeffding_bound,
    p_value,
    split_digest,
    standing,
    upper_bound,
    wealth,
)
from tenants.scope import TURNOVER
from tests import fakes

NOW = datetime(2026, 11, 26, tzinfo=UTC)
MADE = Conditions({"large": "builtin-large@r1 int8 t1"}, "print", 1_000, 400)


def certificate(**changes: object) -> Certificate:
    values = {
        "group": "standard/en",
        "price": 0.002,
        "alpha": 0.01,
        "delta": 0.1,
        "n": 1_200,
        "p_value": 0.03,
        "risks": {"regret": 0.01, "evidence": 0.05},
        "split": "s",
        "source": "tenant",
        "issued_at": NOW.isoformat(),
        "expires_at": (NOW + timedelta(days=90)).isoformat(),
        "watch": 0.02,
        "conditions": MADE,
    }
    return Certificate(**(values | changes))


def binomial_tail(count: int, trials: int, chance: float) -> float:
    """P(at least `count` of `trials`)."""
    return sum(math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(count, trials + 1))


def test_one_loss_by_hand():
    # n = 1, δ = .1: σ²_0 = ¼, so ν_1 = min(1, sqrt(2 ln 10 / ¼)) = 1 and K_1 = 1 + α − L.
    assert p_value([0.0], 0.25) == pytest.approx(1 / 1.25)
    assert p_value([1.0], 0.25) == 1.0
    assert p_value([], 0.25) == 1.0


def test_two_losses_by_hand():
    # δ = .9 makes the bets small: ν_1 = sqrt(2 ln(1/.9) / (2 · ¼)) = .64919;
    # μ_1 = (½ + 0) / 2 = ¼, σ²_1 = (¼ + (0 − ¼)²) / 2 = .15625, ν_2 = sqrt(2 ln(1/.9) / (2 · .15625)) = .82117.
    first, second = math.sqrt(4 * math.log(1 / 0.9)), math.sqrt(math.log(1 / 0.9) / 0.15625)
    assert (first, second) == pytest.approx((0.64919, 0.82117), abs=1e-5)
    expected = [math.log(1 + first * 0.5), math.log(1 + first * 0.5) + math.log(1 + second * (0.5 - 0.2))]
    assert wealth([0.0, 0.2], 0.5, 0.9) == pytest.approx(expected)
    assert p_value([0.0, 0.2], 0.5, 0.9) == pytest.approx(math.exp(-expected[1]))


def test_the_peak_counts_not_the_end():
    losses = [0.0] * 50 + [1.0]
    assert p_value(losses, 0.1) == pytest.approx(math.exp(-max(wealth(losses, 0.1))))
    assert wealth(losses, 0.1)[-1] < max(wealth(losses, 0.1))


@pytest.mark.parametrize("losses", [[-0.1], [1.1], [float("nan")]])
def test_losses_outside_their_range_are_refused(losses: list[float]):
    with pytest.raises(ValueError, match="losses lie in"):
        p_value(losses, 0.1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.floats(0.001, 0.9), st.floats(0.001, 0.9))
def test_a_larger_alpha_is_never_harder_to_certify(losses: list[float], one: float, other: float):
    small, large = sorted((one, other))
    assert p_value(losses, large) <= p_value(losses, small) + 1e-12


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=200))
def test_the_bound_lies_above_the_mean_less_rounding(losses: list[float]):
    bound = upper_bound(losses)
    assert 0 <= bound <= 1
    assert p_value(losses, min(1.0, bound + 1e-6)) <= 0.1 or bound > 0.999


def test_at_most_delta_of_certificates_are_wrong():
    """On the border of the null, where false certificates are likeliest, at most δ with the binomial's slack."""
    chance, trials, alpha, wrong = np.random.default_rng(7), 400, 0.05, 0
    for _ in range(trials):
        losses = (chance.random(300) < 0.1) * 0.5  # mean exactly α
        wrong += p_value(losses, alpha) <= 0.1
    assert binomial_tail(int(wrong), trials, 0.1) > 0.001, f"{wrong} of {trials} violate δ = .1"


def test_a_sequence_is_wrong_at_most_as_often_as_one_test():
    """Thirty prices with a risk that rises through α: a certified one beyond it is a violation."""
    chance, trials, alpha, wrong = np.random.default_rng(11), 300, 0.02, 0
    risk = np.linspace(0, 0.06, 30)
    for _ in range(trials):
        draw = chance.random((400, 1))
        losses = (draw < risk / 0.25) * 0.25  # the same question fails at every higher price: dependent columns
        passed = fixed_sequence({"regret": losses}, {"regret": alpha}).passed
        wrong += passed > 0 and risk[passed - 1] > alpha
    assert binomial_tail(int(wrong), trials, 0.1) > 0.001, f"{wrong} of {trials} violate δ = .1"


def test_power_at_the_numbers_of_the_design():
    """True regret .005, δ = .1: betting gives about .013 at n = 300 and .008 at n = 1,000, Hoeffding .067 and .039."""
    chance = np.random.default_rng(5)

    def typical(n: int, bound: object) -> float:
        return float(np.mean([bound((chance.random(n) < 0.05) * 0.1) for _ in range(40)]))

    assert typical(300, upper_bound) == pytest.approx(0.013, abs=0.0015)
    assert typical(1_000, upper_bound) == pytest.approx(0.0078, abs=0.001)
    assert typical(300, hoeffding_bound) == pytest.approx(0.067, abs=0.001)
    assert typical(1_000, hoeffding_bound) == pytest.approx(0.039, abs=0.001)


def test_the_sequence_stops_at_the_first_failure():
    losses = np.zeros((400, 4))
    losses[:, 2] = 0.5
    tested = fixed_sequence({"regret": losses}, {"regret": 0.02})
    assert tested.passed == 2, "the fourth price would pass, but the third did not"
    assert tested.p_values[2] == 1.0


def test_every_risk_must_hold():
    good, bad = np.zeros((400, 2)), np.full((400, 2), 0.2)
    alphas = {"regret": 0.02, "evidence": 0.05}
    assert fixed_sequence({"regret": good, "evidence": good}, alphas).passed == 2
    assert fixed_sequence({"regret": good, "evidence": bad}, alphas).passed == 0


def test_a_thousand_questions_pay_for_one_percent():
    assert [affordable(n) for n in (299, 300, 999, 1_000)] == [None, 0.02, 0.02, 0.01]
    assert p_value(np.zeros(300), 0.02) <= 0.1
    assert p_value(np.zeros(1_000), 0.01) <= 0.1


def test_its_name_is_the_digest_of_all_it_says():
    one = certificate()
    assert one.certificate_id.startswith("c_")
    assert Certificate.from_json(json.loads(json.dumps(one.to_json()))).certificate_id == one.certificate_id
    assert certificate(price=0.003).certificate_id != one.certificate_id
    assert split_digest(["b", "a"]) == split_digest(["a", "b"]) != split_digest(["a"])


@pytest.mark.parametrize(
    ("now", "at", "why"),
    [
        (MADE, NOW + timedelta(days=89), None),
        (MADE, NOW + timedelta(days=90), "expired"),
        (replace(MADE, models={"large": "builtin-large@r2 int8 t1"}), NOW, "large model"),
        (replace(MADE, models={"large": "builtin-large@r1 bf16 t1"}), NOW, "precision"),
        (replace(MADE, models={}), NOW, "large model"),
        (replace(MADE, fingerprint="other"), NOW, "chunker"),
        (replace(MADE, turnover=600), NOW, None),
        (replace(MADE, turnover=601), NOW, "20% of the corpus"),
    ],
)
def test_what_ends_a_certificate(now: Conditions, at: datetime, why: str | None):
    found = broken(certificate(), now, at)
    assert (found is None) if why is None else (why in (found or ""))


def test_a_pooled_certificate_speaks_of_no_corpus():
    pooled = certificate(source="pooled", conditions=Conditions(MADE.models))
    assert broken(pooled, replace(MADE, fingerprint="any", turnover=10**6), NOW) is None


def test_the_group_decides_which_one_holds():
    held = {"standard/en": certificate()}
    stands = standing(held, group_of("standard", "en"), MADE, NOW, {})
    assert (stands.price, stands.certificate) == (0.002, held["standard/en"])
    none = standing(held, group_of("high", "en"), MADE, NOW, {})
    assert (none.price, none.certificate) == (0.0, None)
    assert "No certificate" in none.reason


def test_an_alarm_voids_only_the_certificate_that_it_saw():
    held = {"standard/en": certificate()}
    voided = standing(held, "standard/en", MADE, NOW, {"standard/en": held["standard/en"].certificate_id})
    assert (voided.price, voided.certificate) == (0.0, None)
    assert "drift" in voided.reason
    assert standing(held, "standard/en", MADE, NOW, {"standard/en": "c_older"}).price == 0.002


def test_a_broken_one_falls_back_to_the_full_rerank_and_says_why():
    stands = standing({"standard/en": certificate()}, "standard/en", replace(MADE, fingerprint="x"), NOW, {})
    assert (stands.price, stands.certificate) == (0.0, None)
    assert "fathom calibrate" in stands.reason


def test_conditions_are_the_pinned_versions():
    scope = fakes.scope()
    assert scope.release is not None
    changed = replace(scope, release=replace(scope.release, profile={TURNOVER: 7}))
    assert conditions_of(changed, MADE.models) == Conditions(MADE.models, "fake", 1, 7)
    assert conditions_of(replace(scope, release=None), MADE.models) == Conditions(MADE.models)
