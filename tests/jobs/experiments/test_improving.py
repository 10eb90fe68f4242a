"""The loop's gates, one after another, on real stores; training and certifying are handed in."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from jobs.experiments.desk import Desk
from jobs.experiments.improving import Trained, Wishes, advance, prefix_of
from services.audit.log import open_audit_log
from services.audit.reading import AuditReader
from services.contracts import AuditRecord, Outcome
from services.settings import Settings
from tenants.config import TenantConfig
from tenants.database import Database
from tenants.errors import InvalidInput
from tenants.ids import new_query_id
from tenants.scope import TenantScope
from tenants.store import open_store

HOUR = timedelta(hours=1)


class World:
    """A tenant, a desk whose clock is an hour ahead, and what the loop was asked to train and certify."""

    def __init__(self, folder):
        self.settings = Settings(data_dir=str(folder), mlflow_tracking_uri="off", experiment_poll_s=0.001)
        self.store = open_store(self.settings.control_url, pepper=b"a pepper of the tests, 32 bytes!")
        self.log = open_audit_log(self.settings.audit_url)
        self.reader = AuditReader(Database(self.settings.audit_url))
        self.desk = Desk(self.store, self.reader, self.log, self.settings, lambda: datetime.now(UTC) + HOUR)
        self.tenant = self.store.create_tenant("acme", TenantConfig())
        self.bases, self.configs = [], []
        self.gain = 0.1

    def train(self, base):
        self.bases.append(base)
        return Trained("/models/fathom-rerank-large-acme", 0.5 + self.gain, 0.5, "run")

    def certify(self, config):
        self.configs.append(config)
        return {"certificate": "c_1"}

    def advance(self, **wishes):
        wanted = Wishes("acme", **{"feedback": 5, "window_s": 60.0, **wishes})
        return advance(self.store, self.desk, wanted, self.train, self.certify)

    def judge(self, count):
        for _ in range(count):
            self.store.add_feedback(self.tenant, new_query_id(0), {"clicked": ["c_1"]})

    def traffic(self, experiment, units, challenger_rank, champion_rank):
        """Each unit asks once and clicks at its arm's rank."""
        scope = TenantScope(self.tenant.name, self.tenant.uid, self.tenant.config, "")
        asyncio.run(self._traffic(scope, experiment, units, {"challenger": challenger_rank, "champion": champion_rank}))

    async def _traffic(self, scope, experiment, units, ranks):
        for number in range(units):
            arm = ("champion", "challenger")[number % 2]
            query_id, shown = new_query_id(number), [f"c_{n}" for n in range(10)]
            values = {"kind": "search", "state": "complete", "ms": 10.0, "rerank_ms": 1.0, "pairs": 1, "tokens": 0}
            values |= {"abstained": False, "degraded": False, "shown": shown}
            at_ms = int(datetime.now(UTC).timestamp() * 1000)
            told = Outcome(experiment, arm, f"u{number}", values)
            await self.log.append(scope, AuditRecord(query_id, at_ms, {"query_id": query_id}, outcome=told))
            rank = ranks[arm] + number % 3
            self.store.add_feedback(self.tenant, query_id, {"clicked": [shown[min(rank, 9)]]})


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.log.close()
    made.store.close()


def test_without_feedback_it_gathers(world):
    world.judge(4)
    step = world.advance()
    assert (step.stage, step.done, world.bases) == ("gathering", False, [])
    assert "4 of 5" in step.reason


def test_no_gain_offline_ends_the_round_before_any_user_sees_it(world):
    world.judge(5)
    world.gain = 0.001
    step = world.advance()
    assert (step.stage, step.done) == ("no_gain", True)
    assert world.store.list_experiments() == []


def test_a_training_that_cannot_be_ends_the_round_with_its_reason(world):
    world.judge(5)

    def refuse(base):
        raise InvalidInput("no chunk that the feedback names is found today")

    step = advance(world.store, world.desk, Wishes("acme", feedback=5), refuse, world.certify)
    assert (step.stage, step.reason) == ("untrained", "no chunk that the feedback names is found today")


def test_a_gain_is_certified_and_tried_on_users(world):
    world.judge(5)
    step = world.advance(guardrails={"answer_ms": 0.5})
    (made,) = world.store.list_experiments(running=True)
    assert (step.stage, step.done, step.facts["experiment"]) == ("testing", False, made.name)
    assert made.spec["arms"][1]["overrides"] == {"rerankers": {"large": "/models/fathom-rerank-large-acme"}}
    assert world.configs[0].rerankers.large == "/models/fathom-rerank-large-acme"
    assert world.bases == ["builtin-large"]
    assert world.advance().stage == "testing"


def test_what_users_like_better_is_promoted_and_the_next_round_goes_on_from_it(world):
    world.judge(5)
    name = world.advance().facts["experiment"]
    world.traffic(name, 800, challenger_rank=0, champion_rank=3)
    step = world.advance()
    assert (step.stage, step.done) == ("promoted", True)
    assert world.store.champions(world.tenant)[0].champion.variant == f"{name}/challenger"
    assert world.advance(feedback=10_000).stage == "gathering"
    assert world.advance(feedback=5).stage == "testing"
    assert world.bases == ["builtin-large", "/models/fathom-rerank-large-acme"]
    assert world.store.list_experiments(running=True)[0].name == f"{prefix_of(world.tenant)}2"


def test_what_users_like_less_is_stopped_and_the_champion_stays(world):
    world.judge(5)
    name = world.advance().facts["experiment"]
    world.traffic(name, 800, challenger_rank=3, champion_rank=0)
    world.desk.look()  # what the gateway does every few seconds
    ended = world.store.get_experiment(name)
    assert (ended.state, ended.outcome["word"], ended.outcome["by"]) == ("stopped", "harmful", "guardrail")
    assert world.store.champions(world.tenant) == []
    told = world.advance()  # with more than enough feedback for another round
    assert (told.stage, told.done, told.reason) == ("rejected", True, ended.outcome["verdict"]["reason"])
    assert len(world.bases) == 1
    assert world.advance(feedback=10_000).stage == "gathering"


def test_it_does_not_disturb_another_experiment(world):
    world.judge(5)
    arms = [{"name": "control"}, {"name": "b", "overrides": {"rerank": {"price": 1}}}]
    world.desk.create({"name": "other", "tenants": ["acme"], "arms": arms}, "operator")
    step = world.advance()
    assert (step.stage, step.done, world.bases) == ("waiting", False, [])
    assert "other" in step.reason
