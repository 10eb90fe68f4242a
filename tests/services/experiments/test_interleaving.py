"""Team draft by hand, and what must hold of every draft."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.experiments.interleaving import credit, team_draft


def test_the_common_beginning_is_nobodys():
    draft = team_draft([3, 1, 2, 0], [3, 1, 0, 2], seed=1)
    assert draft.order[:2] == (3, 1)
    assert draft.teams[:2] == ("", "")
    assert set(draft.teams[2:]) == {"a", "b"}


def test_each_round_takes_one_of_each():
    # Disjoint heads: a wants 0, b wants 1; whoever is first, both are among the first two.
    draft = team_draft([0, 2, 1, 3], [1, 3, 0, 2], seed=7)
    assert set(draft.order[:2]) == {0, 1}
    assert draft.teams[draft.order.index(0)] == "a"
    assert draft.teams[draft.order.index(1)] == "b"


@given(st.permutations(list(range(8))), st.permutations(list(range(8))), st.integers(0, 2**32 - 1))
def test_every_row_once_and_fair(a, b, seed):
    draft = team_draft(a, b, seed)
    assert sorted(draft.order) == list(range(8))
    assert draft == team_draft(a, b, seed)
    picks = [team for team in draft.teams if team]
    for place in range(len(picks) + 1):
        assert abs(picks[:place].count("a") - picks[:place].count("b")) <= 1
    if a == b:
        assert not picks


def test_the_coin_is_fair():
    first = [team_draft([0, 1], [1, 0], seed).order[0] for seed in range(2_000)]
    assert 0.45 < sum(first) / 2_000 < 0.55


def test_other_rows_are_refused():
    with pytest.raises(ValueError, match="same rows"):
        team_draft([0, 1], [0, 2], 1)


@pytest.mark.parametrize(
    ("teams", "clicked", "value"),
    [
        (["", "a", "b"], [0], 0.5),
        (["", "a", "b"], [2], 1.0),
        (["", "a", "b"], [1], 0.0),
        (["", "a", "b"], [1, 2], 0.5),
        (["b", "a", "b"], [0, 1, 2], 1.0),
        (["a"], [], 0.5),
        (["a"], [9], 0.5),
    ],
)
def test_credit(teams, clicked, value):
    assert credit(teams, clicked) == value
