"""Paired comparisons against scipy's oracle, closed forms and worked examples."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from jobs.experiments.paired import corrected, differences, paired


def drawn(n, shift=0.05, seed=1):
    rng = np.random.default_rng(seed)
    a = rng.random(n)
    return a, a + rng.normal(shift, 0.1, n)


def test_means_difference_and_counts():
    found = paired(np.array([0.0, 0.5, 1.0, 0.2]), np.array([0.5, 0.5, 0.5, 0.4]))
    assert (found.mean_a, found.mean_b) == (pytest.approx(1.7 / 4), pytest.approx(1.9 / 4))
    assert found.difference == pytest.approx(0.2 / 4)
    assert (found.wins, found.losses, found.ties, found.n) == (2, 1, 1, 4)


def test_few_questions_are_counted_exactly():
    d = np.array([0.3, 0.1, -0.2, 0.4, 0.25])
    sums = [abs(float(np.array(signs) @ d)) for signs in itertools.product((1, -1), repeat=5)]
    expected = sum(one >= abs(d.sum()) - 1e-12 for one in sums) / 2**5
    assert paired(np.zeros(5), d).p == expected
    assert paired(np.zeros(5), np.ones(5)).p == 2 / 2**5  # all the same sign: this flip and its mirror alone


def test_exact_p_is_scipy_s():
    a, b = drawn(11)
    oracle = permutation_test((b - a,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert paired(a, b).p == pytest.approx(oracle.pvalue)


def test_random_flips_come_near_the_exact_p():
    a, b = drawn(12, shift=0.02)
    assert paired(a, b, resamples=4_000).p == pytest.approx(paired(a, b, resamples=2**12).p, abs=0.03)


def test_a_random_p_is_never_zero():
    a, b = drawn(200, shift=1.0)
    assert paired(a, b, resamples=500).p == 1 / 501


def test_questions_that_tie_do_not_change_p():
    a, b = drawn(8)
    ties = np.full(5, 0.5)
    assert paired(np.append(a, ties), np.append(b, ties)).p == paired(a, b).p


def test_the_interval_of_many_is_the_normal_one():
    a, b = drawn(2_000)
    found, spread = paired(a, b), (b - a).std() / np.sqrt(2_000)
    assert found.lower == pytest.approx(found.difference - 1.96 * spread, abs=0.1 * spread)
    assert found.upper == pytest.approx(found.difference + 1.96 * spread, abs=0.1 * spread)


def test_the_interval_of_a_skewed_measure_reaches_further_to_the_long_side():
    d = np.random.default_rng(3).exponential(1.0, 40)
    found = paired(np.zeros(40), d)
    assert found.upper - found.difference > found.difference - found.lower


def test_the_same_seed_says_the_same():
    a, b = drawn(60)
    assert paired(a, b, seed=7) == paired(a, b, seed=7)
    assert paired(a, b, seed=7) != paired(a, b, seed=8)


def test_turning_the_sides_turns_the_signs():
    a, b = drawn(10)
    one, other = paired(a, b), paired(b, a)
    assert (one.difference, one.p, one.wins) == (-other.difference, other.p, other.losses)


def test_one_question_has_no_interval_and_proves_nothing():
    found = paired(np.array([0.2]), np.array([0.9]))
    assert (found.lower, found.upper, found.p, found.wins) == (None, None, 1.0, 1)


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_the_same_difference_everywhere_has_no_width(shift):
    a = np.linspace(0, 0.7, 20)
    found = paired(a, a + shift)
    assert found.lower == found.upper == pytest.approx(shift)
    assert found.p == (1.0 if shift == 0 else 1 / 10_001)


def test_two_questions_and_one_that_differs_have_finite_intervals():
    for d in ([0.0, 0.4], [0.1, -0.4], [0.0] * 30 + [0.5]):
        found = paired(np.zeros(len(d)), np.array(d))
        assert found.lower <= found.difference <= found.upper


def test_rounding_is_a_tie():
    assert differences(np.array([0.1 + 0.2]), np.array([0.3])).tolist() == [0.0]
    assert paired(np.array([0.1 + 0.2, 1.0]), np.array([0.3, 1.0])).ties == 2
    assert paired(np.zeros(3), np.zeros(3)).ties == 3


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [np.inf])])
def test_what_cannot_be_compared_is_refused(a, b):
    with pytest.raises(ValueError, match=r"compared|finite"):
        paired(np.array(a), np.array(b))


def test_the_test_keeps_its_level():
    """Of 400 comparisons without a difference about 5 % may claim one: 20 ± 3 · 4.4."""
    rng = np.random.default_rng(5)
    claims = sum(paired(np.zeros(20), rng.normal(0, 1, 20), seed=n, resamples=400).p <= 0.05 for n in range(400))
    assert claims <= 20 + 3 * np.sqrt(400 * 0.05 * 0.95)


def test_holm_by_hand():
    # Rising: .01 · 4, .02 · 3, .03 · 2 = .06 held at .06, .5 · 1.
    found = corrected({"d": 0.5, "b": 0.02, "a": 0.01, "c": 0.03})
    assert list(found) == ["d", "b", "a", "c"]
    assert found == {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5}
    assert corrected({"a": 0.4, "b": 0.9}) == {"a": 0.8, "b": 0.9}
    assert corrected({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert corrected({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p_values):
    found = corrected(p_values)
    assert all(p_values[name] <= found[name] <= min(1, len(p_values) * p_values[name]) for name in p_values)
    order = sorted(p_values, key=lambda name: p_values[name])
    assert [found[name] for name in order] == sorted(found.values())
