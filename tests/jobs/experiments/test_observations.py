"""From questions to units, by hand: every unit once, whole, in the order in which its window closed."""

import numpy as np
import pytest

from jobs.experiments.observations import Judgement, mean_credits, observe, pairs_of
from services.audit.reading import StoredOutcome
from services.experiments.metrics import METRICS
from services.experiments.spec import parse_spec

ARMS = [{"name": "control"}, {"name": "b"}]


def spec(**fields):
    return parse_spec({"name": "x", "tenants": ["acme"], "arms": ARMS, "window_s": 60, **fields})


def asked(unit, at_s, arm="control", query=None, **values):
    told = {"kind": "search", "state": "complete", "ms": 10.0, "rerank_ms": 1.0, "pairs": 2, "tokens": 0}
    told |= {"abstained": False, "degraded": False, "shown": ["c1", "c2", "c3"], **values}
    return StoredOutcome("t_1", query or f"q_{unit}_{at_s}", arm, unit, int(at_s * 1000), told)


def said(query, at_s, **body):
    return Judgement(query, body, int(at_s * 1000))


def seen(outcomes, judgements=(), past=None, now_s=1_000.0, **more):
    return observe(spec(), outcomes, judgements, past or {}, int(now_s * 1000), **more)


def test_a_unit_counts_once_by_the_mean_of_its_window():
    found = seen([asked("u", 0, ms=10.0), asked("u", 30, ms=30.0), asked("u", 61, ms=900.0)])
    assert found.arm.tolist() == [0]
    assert found.value["answer_ms"].tolist() == [20.0]
    assert (found.exposed, found.questions) == ((1, 0), (3, 0))


def test_an_open_window_does_not_count_yet_and_the_end_closes_it():
    rows = [asked("u", 0), asked("v", 50, "b")]
    found = seen(rows, now_s=100)
    assert (found.arm.tolist(), found.exposed, found.open_units) == ([0], (1, 1), 1)
    assert seen(rows, now_s=100, ended=True).arm.tolist() == [0, 1]


def test_units_stand_in_the_order_in_which_they_closed():
    found = seen([asked("late", 5, "b"), asked("early", 0), asked("late", 6, "b")])
    assert found.arm.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("body", "clicked", "rank", "liked", "disliked"),
    [
        ({"clicked": ["c2"]}, 1, 0.5, 0, 0),
        ({"clicked": ["c3", "c1"]}, 1, 1.0, 0, 0),
        ({"clicked": ["never shown"]}, 0, 0.0, 0, 0),
        ({"rating": 1}, 0, 0.0, 1, 0),
        ({"rating": -1}, 0, 0.0, 0, 1),
        ({"comment": "hm"}, 0, 0.0, 0, 0),
    ],
)
def test_what_users_say(body, clicked, rank, liked, disliked):
    found = seen([asked("u", 0, query="q")], [said("q", 1, **body)])
    values = {name: found.value[name][0] for name in ("clicked", "click_rank", "liked", "disliked")}
    assert values == {"clicked": clicked, "click_rank": rank, "liked": liked, "disliked": disliked}


def test_what_is_said_after_the_window_is_not_heard():
    found = seen([asked("u", 0, query="q")], [said("q", 61, clicked=["c1"])])
    assert found.value["clicked"].tolist() == [0.0]


def test_a_question_soon_after_another_follows_it_up():
    found = observe(spec(window_s=10_000), [asked("u", 0), asked("u", 300), asked("u", 2_000)], (), {}, 10**9)
    assert found.value["followed_up"].tolist() == [pytest.approx(1 / 3)]


def test_a_unit_that_was_seen_in_two_arms_stays_with_the_first():
    found = seen([asked("u", 0), asked("u", 10, "b", ms=99.0)])
    assert (found.arm.tolist(), found.exposed, found.value["answer_ms"].tolist()) == ([0], (1, 0), [10.0])


def test_an_arm_that_is_not_in_the_spec_is_nobodys():
    assert seen([asked("u", 0, "gone")]).exposed == (0, 0)


def test_the_past_is_the_units_own():
    found = seen([asked("u", 0), asked("v", 1, "b")], past={"v": {"answer_ms": 7.0}})
    assert np.isnan(found.covariate["answer_ms"][0])
    assert found.covariate["answer_ms"][1] == 7.0


def test_nothing_at_all():
    found = seen([])
    assert (len(found.arm), found.exposed) == (0, (0, 0))
    assert set(found.value) == set(METRICS)


def test_credits_are_of_closed_units_and_of_teams():
    shown = {"shown": ["c1", "c2"], "teams": ["a", "b"]}
    rows = [asked("u", 0, query="q1", **shown), asked("v", 1, query="q2", **shown), asked("w", 990, **shown)]
    heard = [said("q1", 1, clicked=["c2"]), said("q2", 2, clicked=["c1"])]
    one = spec(kind="interleaving")
    assert mean_credits(one, rows, heard, 1_000_000).tolist() == [1.0, 0.0]
    assert mean_credits(one, rows, heard, 1_000_000, ended=True).tolist() == [1.0, 0.0, 0.5]


def test_shadows_are_pairs():
    rows = [asked("u", 0, query="q"), asked("u", 0, "b", query="q", ms=25.0, overlap=0.5), asked("v", 1, query="alone")]
    control, rival = pairs_of(rows, spec(kind="shadow"))
    assert (rival["answer_ms"] - control["answer_ms"]).tolist() == [15.0]
    assert rival["overlap"].tolist() == [0.5]
