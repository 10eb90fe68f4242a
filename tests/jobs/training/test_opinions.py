"""Marks on what was shown become positives, refusals and weights."""

import numpy as np
import pytest

from jobs.training.opinions import Ledger, Showing, showing_of
from jobs.training.propensity import CLIP, prior

LOOKS = {"search": prior(), "answer": prior()}  # p = 1 / rank, so a click weighs its rank


def showing(shown, question="why", kind="search", **marks):
    one = Showing(question, tuple(shown), kind)
    one.mark({name: list(chunks) for name, chunks in marks.items()})
    return one


def opinion(*showings, silent=()):
    ledger = Ledger(showings)
    for one in silent:
        ledger.count(one)
    found = ledger.opinions(LOOKS)
    return found[0] if found else None


def test_what_was_not_shown_is_not_marked():
    one = showing("abc", clicked="bz", relevant="y", irrelevant="cx")
    assert (one.clicked, one.relevant, one.irrelevant) == ({2}, set(), {3})


def test_passed_over_is_what_stands_above_a_click_or_next_below_the_last():
    told = opinion(showing("abcdefg", clicked="be"))
    assert list(told.positives) == ["e", "b"]  # each at its weight: 5 and 2
    assert told.refused == ("a", "c", "d", "f")


def test_without_a_click_nothing_was_passed_over():
    assert opinion(showing("abc", relevant="b")).refused == ()
    assert opinion(showing("abc", irrelevant="b")) is None


def test_relevant_ones_are_the_positives_and_clicks_are_then_neither():
    told = opinion(showing("abcd", relevant="b", clicked="d"))
    assert told.positives == {"b": 1.0}
    assert (told.refused, told.unsure, told.clicks) == (("a", "c"), {"d"}, False)


def test_irrelevant_ones_are_refused_first_even_when_they_were_clicked():
    told = opinion(showing("abcd", clicked="bd", irrelevant="b"))
    assert list(told.positives) == ["d"]
    assert told.refused == ("b", "a", "c")


def test_the_majority_of_showings_decides_and_a_draw_decides_nothing():
    against = showing("abc", irrelevant="a", relevant="c")
    told = opinion(showing("abc", relevant="a"), against, showing("abc", relevant="b", irrelevant="c"), against)
    assert told.positives == {"c": 1.0, "b": 1.0}
    assert told.refused == ("a",)
    drawn = opinion(showing("abc", relevant="ab"), showing("abc", irrelevant="a"))
    assert (drawn.positives, drawn.refused, drawn.unsure) == ({"b": 1.0}, (), {"a"})


def test_a_click_weighs_the_inverse_of_the_chance_of_a_look_up_to_the_clip():
    for rank in (1, 4, 30):
        shown = [f"c{place}" for place in range(1, 41)]
        told = opinion(showing(shown, clicked=[f"c{rank}"]))
        assert told.positives == {f"c{rank}": pytest.approx(min(rank, CLIP))}


def test_clicks_of_several_showings_add_up_over_all_of_them():
    """Clicked at ranks 4 and 2, not at 4 and, where nobody said anything, at 2: (4 + 2) / 4."""
    asked = [
        showing("abcx", clicked="x"),
        showing("axbc", question=" WHY", clicked="x"),
        showing("abcx", clicked="a"),
    ]
    told = opinion(*asked, silent=[showing("axbc", question="Why"), showing("x", question="another")])
    assert told.text == "why"
    assert told.positives["x"] == pytest.approx(6 / 4)
    assert "x" not in told.refused


def test_saying_it_often_says_it_once():
    one = showing("abx", clicked="x")
    for _ in range(50):
        one.mark({"clicked": ["x"]})
    assert opinion(one).positives == {"x": pytest.approx(3.0)}


def test_answers_and_pages_have_looks_of_their_own():
    rng = np.random.default_rng(3)

    def asked(number, kind, steepness):
        shown = [f"c{place}" for place in rng.permutation(6)]
        looked = rng.random(6) < np.arange(1, 7.0) ** -steepness
        liked = rng.random(6) < 0.5
        clicks = [chunk for chunk, look, like in zip(shown, looked, liked, strict=True) if look and like]
        return showing(shown, f"{kind} {number % 40}", kind, clicked=clicks)

    shown = [asked(number, kind, power) for number in range(3_000) for kind, power in (("search", 1.0), ("answer", 0))]
    looks = Ledger(shown).examination()
    assert looks["search"].at(4) == pytest.approx(1 / 4, rel=0.15)
    assert looks["answer"].at(4) == pytest.approx(1.0, rel=0.15)


def test_a_record_without_text_or_results_shows_nothing():
    whole = {"texts": {"query": "why"}, "evidence": ["a", "b"], "answer": None}
    assert showing_of(whole) == Showing("why", ("a", "b"))
    assert showing_of(whole | {"answer": {"generator": "extractive"}}).kind == "answer"
    assert showing_of(whole | {"texts": {"query": None}}) is None
    assert showing_of(whole | {"evidence": []}) is None
    assert showing_of({}) is None
