"""Groups: who is in them, in which order, again and again the same."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.training.mining import PASSAGES, QUESTIONS, Mined
from jobs.training.pairs import window
from jobs.training.sampling import Lengths, Mix, Sampler, negatives, pool_of
from tenants.errors import InvalidInput

LENGTHS = Lengths(short=24, long=48, long_share=0.5)


@given(
    ranking=st.lists(st.integers(0, 199), unique=True, max_size=100),
    taken=st.sets(st.integers(0, 199), max_size=5),
    seed=st.integers(0, 99),
)
def test_negatives_are_different_and_never_relevant(ranking, taken, seed):
    ranking = [row for row in ranking if row not in taken]
    mix = Mix(hard=4, medium=2, random=1, ranks=(5, 60))
    found = negatives(ranking, np.arange(200), taken, mix, np.random.default_rng(seed))
    assert len(found) == len(set(found)) == mix.size - 1
    assert taken.isdisjoint(found)


def test_hard_ones_come_from_the_given_ranks_and_medium_ones_from_behind():
    ranking = list(range(100))
    mix = Mix(hard=3, medium=2, random=0, ranks=(5, 60))
    for seed in range(50):
        found = negatives(ranking, np.arange(100, 200), {500}, mix, np.random.default_rng(seed))
        assert all(4 <= row <= 59 for row in found[:3])
        assert all(row >= 60 for row in found[3:])


@given(
    refused=st.lists(st.integers(0, 99), unique=True, max_size=8),
    mix=st.builds(Mix, hard=st.integers(0, 5), medium=st.integers(0, 3), random=st.integers(0, 3)),
    seed=st.integers(0, 99),
)
def test_refused_ones_are_up_to_half_of_the_hard_negatives(refused, mix, seed):
    ranking = [*range(100, 104), *refused, *range(104, 180)]
    found = negatives(ranking, np.arange(200), {199}, mix, np.random.default_rng(seed), refused)
    assert len(found) == len(set(found)) == mix.size - 1
    sure = min(len(refused), (mix.hard + 1) // 2)
    assert set(found[:sure]) <= set(refused)
    assert 199 not in found


def test_the_worst_is_refused_most_often_and_all_have_a_turn():
    drawn = Counter(
        negatives([], np.arange(0), set(), Mix(hard=1), np.random.default_rng(seed), [7, 8, 9])[0]
        for seed in range(600)
    )
    assert drawn[7] > drawn[8] > drawn[9] > 60


def test_a_groups_weight_and_refusals_are_its_questions(pool):
    weighed = replace(pool, weights=[n / 10 for n in range(10)], refused=[[20 + n] for n in range(10)])
    sampler = Sampler([weighed], Mix(hard=2, medium=0, random=0), Lengths(99, 99, 0.0), 3, seed=1)
    for group in sampler.groups(0, 10):
        number = next(n for n in range(10) if np.array_equal(group.question, pool.questions[n]))
        assert group.weight == number / 10
        assert np.array_equal(group.passages[1], pool.passages[20 + number])
    assert {group.weight for group in Sampler([pool], Mix(), LENGTHS, 3, seed=1).groups(0, 10)} == {1.0}


def test_a_short_list_is_filled_from_the_corpus():
    found = negatives([7], np.arange(50), {3}, Mix(hard=4, medium=1, random=1), np.random.default_rng(0))
    assert len(found) == 6
    assert negatives([7], np.arange(0), {3}, Mix(), np.random.default_rng(0)) == []


def test_same_seed_same_groups_wherever_one_starts(pool):
    one, two = (Sampler([pool], Mix(hard=2, medium=0), LENGTHS, 3, seed=5) for _ in range(2))
    first, again = one.groups(0, 12), two.groups(4, 8)
    for left, right in zip(first[4:], again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(left.passages, right.passages, strict=True))


def test_every_question_comes_once_before_one_comes_again(pool):
    groups = Sampler([pool], Mix(), LENGTHS, 3, seed=1).groups(0, 20)
    asked = Counter(group.question.tobytes() for group in groups)
    assert set(asked.values()) == {2}
    assert len({group.question.tobytes() for group in groups[:10]}) == 10


def test_reserved_passages_are_in_no_group(pool):
    groups = Sampler([pool], Mix(hard=5, medium=5, random=5, ranks=(5, 30)), LENGTHS, 3, seed=2).groups(0, 200)
    assert all(not np.array_equal(one, pool.passages[39]) for group in groups for one in group.passages)


def test_sources_take_turns_by_the_root_of_their_size(pool):
    small = replace(
        pool, name="few", questions=[np.full(3, 5, np.uint32)], positives=[[0]], rankings=[list(range(5, 30))]
    )
    large = replace(pool, questions=pool.questions[:9], positives=pool.positives[:9], rankings=pool.rankings[:9])
    groups = Sampler([large, small], Mix(), LENGTHS, 3, seed=1).groups(0, 100)
    assert sum(int(group.question[0]) == 5 for group in groups) == 25


def test_groups_keep_to_their_length(pool):
    groups = Sampler([pool], Mix(), Lengths(10, 12, 0.5), 3, seed=1).groups(0, 60)
    longest = {max(len(one) for one in group.passages) + len(group.question) + 3 for group in groups}
    assert longest == {10, 12}


def test_a_teachers_logits_stay_with_their_passages(pool):
    taught = replace(pool, taught=[{row: float(row) for row in range(0, 40, 2)} for _ in range(10)])
    for group in Sampler([taught], Mix(), LENGTHS, 3, seed=1).groups(0, 10):
        rows = [next(n for n, one in enumerate(pool.passages) if np.array_equal(one, text)) for text in group.passages]
        expected = [float(row) if row % 2 == 0 else math.nan for row in rows]
        np.testing.assert_array_equal(group.taught, expected)


def test_window_holds_the_rare_words_of_the_question():
    passage = np.array([1, 1, 1, 1, 1, 1, 9, 8, 1, 1], np.uint32)
    rare = np.array([0, 0, 0, 0, 0, 0, 0, 0, 2.0, 2.0], np.float32)
    assert window(np.array([8, 9], np.uint32), passage, 4, rare).tolist() == [1, 1, 9, 8]
    assert window(np.array([1], np.uint32), passage, 4, rare).tolist() == [1, 1, 1, 1]
    assert window(np.array([8], np.uint32), passage, 99, rare) is passage


def test_a_source_without_training_questions_says_so(builder):
    row = {"text": "why", "split": "dev", "positives": [0], "ranking": [], "fused": [], "taught": []}
    nothing = Mined(
        "empty",
        "d",
        "none",
        PASSAGES.empty_table(),
        QUESTIONS.empty_table().from_pylist([row], schema=QUESTIONS),
    )
    with pytest.raises(InvalidInput, match="empty has no training question"):
        pool_of(nothing, builder)
