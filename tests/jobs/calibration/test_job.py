"""A calibration from questions to the profile that serves, on made-up full reranks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.cli.calibrate_verbs import lines_of
from jobs.calibration import job
from jobs.calibration.collecting import Collector
from jobs.calibration.job import calibrate
from jobs.calibration.logs import Logged
from jobs.calibration.progress import Pace, Paced
from jobs.calibration.questions import Asked, Questions, from_audit, labelled
from jobs.evaluation.datasets import Dataset
from services.contracts import CrossEncoderFacts
from services.reranking.certificate import conditions_of, standing
from services.reranking.profile import Profile, model_name
from services.settings import Settings
from tenants.errors import InvalidInput, Unavailable
from tenants.scope import TenantScope
from tenants.store import Store, open_store
from tests import fakes
from tests.jobs.calibration.logged import logged
from tests.services.reranking.questions import profile

FACTS = {
    role: CrossEncoderFacts(f"builtin-{role}", f"{role}-1", "int8", "t", (50, 200), cost, cost)
    for role, cost in (("large", (1.0, 4.0)), ("small", (0.35, 1.4)))
}
SETTINGS = Settings(mlflow_tracking_uri="off")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/control.db")
    yield store
    store.close()


@pytest.fixture
def scope(store: Store, monkeypatch: pytest.MonkeyPatch) -> TenantScope:
    """A tenant of the control plane with a published version."""
    monkeypatch.setattr(job, "pinned", lambda scope: replace(scope, release=fakes.scope().release))
    return store.scope_of(store.create_tenant("acme"), "unused")


def asked(count: int) -> Questions:
    return Questions(tuple(Asked(f"q{seed}", f"question {seed}", {"d0": 1}) for seed in range(count)), "labels", "d")


def collect(questions: Questions, scope: TenantScope, settings: Settings) -> Iterator[Any]:
    for one in questions.asked:
        yield logged(int(one.query_id[1:]), labels=questions.source == "labels", count=20), FACTS


def shown(lines: list[str]) -> Any:
    return Paced(lambda pace: lines.append(str(pace)))


def test_enough_questions_make_a_certificate_that_serves(store: Store, scope: TenantScope):
    lines: list[str] = []
    report = calibrate(asked(420), scope, store, SETTINGS, collect, shown(lines))
    assert (report["source"], report["group"], report["n"], report["alpha"]) == ("tenant", "standard/en", 315, 0.02)
    assert report["certificate"].startswith("c_")
    assert report["delta"] == 0.1
    assert 0 <= report["ece"] <= 1
    assert set(report["groups"]) == {"casual/en", "standard/en"}
    assert any(line.startswith("certify: ") for line in lines)
    assert report["message"] in lines_of(report)
    json.dumps(report)
    served = store.scope_of(store.get_tenant("acme"), "unused")
    assert served.calibration is not None
    profile = Profile.from_json(served.calibration)
    assert profile.fits({role: facts.revision for role, facts in FACTS.items()})
    now = conditions_of(fakes.scope(), {role: model_name(facts) for role, facts in FACTS.items()})
    stands = standing(profile.groups, "standard/en", now, datetime.now(UTC), {})
    assert stands.certificate is not None
    assert stands.certificate.certificate_id == report["certificate"]
    assert store.calibration_summary(served)["certificate"] == report["certificate"]


def test_too_few_questions_store_nothing_and_say_so(store: Store, scope: TenantScope, monkeypatch: pytest.MonkeyPatch):
    # Too few to fit on, so the pooled profile is replayed: one of the made-up questions' own few features.
    monkeypatch.setattr(job, "pooled", profile)
    report = calibrate(asked(30), scope, store, SETTINGS, collect, shown([]))
    assert report["source"] == "pooled"
    assert "300 are the least" in report["message"]
    assert report["groups"] == {}
    assert store.list_calibrations(scope) == []


def test_what_is_learned_of_few_questions_serves_where_that_was_asked_for(store: Store, scope: TenantScope):
    report = calibrate(asked(200), scope, store, SETTINGS, collect, shown([]), keep_fit=True)
    (kept,) = store.list_calibrations(scope)
    assert (report["certificate"], kept.profile["groups"]) == (None, {})
    assert kept.profile["source"] == "tenant"
    assert "serves" in report["message"]


def test_without_labels_agreement_is_certified(store: Store, scope: TenantScope):
    traffic = Questions(asked(400).asked, "traffic", "d")
    report = calibrate(traffic, scope, store, SETTINGS, collect, shown([]))
    assert (report["source"], report["ece"]) == ("tenant", None)
    assert "agreement with the full rerank" in report["message"]


def test_nothing_to_ask_and_nothing_found_are_said(store: Store, scope: TenantScope):
    with pytest.raises(InvalidInput, match="no question"):
        calibrate(asked(0), scope, store, SETTINGS, collect, shown([]))

    def nothing(questions: Questions, scope: TenantScope, settings: Settings) -> Iterator[Any]:
        yield from ((None, FACTS) for _ in questions.asked)

    with pytest.raises(InvalidInput, match="finds anything"):
        calibrate(asked(10), scope, store, SETTINGS, nothing, shown([]))


def test_an_interrupted_job_stores_nothing(store: Store, scope: TenantScope):
    def interrupted(questions: Questions, scope: TenantScope, settings: Settings) -> Iterator[Any]:
        yield logged(1), FACTS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(asked(10), scope, store, SETTINGS, interrupted, shown([]))
    assert store.list_calibrations(scope) == []


def test_a_question_counts_once_whoever_asks_it():
    found = labelled(
        Dataset({"a": "One?", "b": "one? ", "c": "two"}, {"a": {"d": 1}, "b": {"d": 1}, "c": {"d": 0}}, "x")
    )
    assert [one.text for one in found.asked] == ["one? "]
    records = [
        {"at": "2026-01-01", "query_id": "q_1", "texts": {"query": "old"}},
        {"at": "2026-01-03", "query_id": "q_3", "texts": {"query": "new"}},
        {"at": "2026-01-02", "query_id": "q_2", "texts": {"query": None}},
        {"query_id": "q_1", "state": "shadow"},
    ]
    assert [one.text for one in from_audit(records).asked] == ["new", "old"]
    assert [one.text for one in from_audit(records, limit=1).asked] == ["new"]


PASSAGES = [fakes.passage(number, f"the tower of town {number}", f"d{number}") for number in range(120)]


async def test_a_full_rerank_asks_both_models_down_to_the_depth():
    scorer = fakes.FakeScorer()
    collector = Collector(fakes.scope(), fakes.FakeRetriever(PASSAGES), scorer)
    models = await collector.models()
    assert set(models) == {"small", "large"}
    one = await collector.collect(Asked("q", "tower of town 7", {"d7": 2, "gone": 1}), tuple(models))
    assert isinstance(one, Logged)
    assert [count for _, count in scorer.asked] == [100, 100]
    assert int(np.isfinite(one.logits["large"]).sum()) == 100
    assert one.grades is not None
    assert one.grades[7] == 2.0
    assert one.ideal == pytest.approx(2 + 1 / np.log2(3))
    bare = await collector.collect(Asked("q", "tower"), ("large",))
    assert bare is not None
    assert (bare.grades, bare.labelled) == (None, False)
    assert await Collector(fakes.scope(), fakes.FakeRetriever(), scorer).collect(Asked("q", "x"), ("large",)) is None


async def test_without_the_large_model_there_is_nothing_to_calibrate():
    with pytest.raises(Unavailable):
        await Collector(fakes.scope(), fakes.FakeRetriever(), fakes.FakeScorer(failure=Unavailable("gone"))).models()


def test_progress_tells_rate_and_time_left():
    now, seen = [0.0], list[Pace]()
    show = Paced(seen.append, every_s=5, clock=lambda: now[0])
    show("rerank", 0, 10)
    now[0] = 2.0
    show("rerank", 1, 10)
    now[0] = 6.0
    show("rerank", 3, 10)
    assert [pace.done for pace in seen] == [0, 3]
    assert str(seen[1]) == "rerank: 3/10 questions, 0.5/s, 14 s left"
