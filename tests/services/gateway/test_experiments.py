"""Experiments through the whole application: who is answered by which variant, what is kept, what is promoted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.experiments.desk import Desk
from services.audit.replay import replay
from services.evidence.selection import page
from services.experiments.rivals import ShadowRivals
from services.query import prepare
from tests.services.gateway.conftest import World

# Long texts hold more of the question's words, short ones have the nearer vector: two rankings that disagree.
DOCS = {f"long{n}": f"which river is number {n} {'meadow hill forest valley ' * (9 + n)}" for n in range(6)}
DOCS |= {f"short{n}": f"river {'reed ' * n}" for n in range(6)}
DENSE = {"fusion": {"weight": 1.0}}
SPEC: dict[str, Any] = {
    "name": "nearest",
    "tenants": ["acme"],
    "arms": [{"name": "control"}, {"name": "nearest", "overrides": DENSE}],
    "window_s": 0,
}


def with_model(reference: str) -> dict[str, Any]:
    arms = [{"name": "control"}, {"name": "b", "overrides": {"rerankers": {"large": reference}}}]
    return {**SPEC, "arms": arms}


@pytest.fixture
async def acme(world: World) -> dict[str, str]:
    key = world.tenant("acme")
    await world.put("acme", key, **DOCS)
    return key


async def create(world: World, **fields: Any) -> Any:
    made = await world.client.post("/admin/v1/experiments", json=SPEC | fields, headers=world.operator)
    assert made.status_code == 201, made.text
    forget(world)
    return made.json()


def forget(world: World) -> None:
    """What a gateway does by itself within two seconds."""
    world.platform.calibrations._fresh.clear()


async def search(world: World, key: dict[str, str], **fields: Any) -> Any:
    body = {"query": "which river is number 7", **fields}
    answer = await world.client.post("/t/acme/v1/search", json=body, headers=key)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def record(world: World, key: dict[str, str], query_id: str) -> Any:
    return (await world.client.get(f"/t/acme/v1/queries/{query_id}", headers=key)).json()


async def test_a_user_keeps_an_arm_and_every_answer_names_it(world: World, acme) -> None:
    await create(world)
    first = {user: (await search(world, acme, user=user))["variant"] for user in map(str, range(30))}
    again = {user: (await search(world, acme, user=user, query="another"))["variant"] for user in first}
    assert first == again
    assert set(first.values()) == {"nearest/control", "nearest/nearest"}


async def test_the_arm_answers_by_its_own_configuration(world: World, acme) -> None:
    await create(world)
    weights = {}
    for user in map(str, range(12)):
        body = await search(world, acme, user=user)
        told = await record(world, acme, body["query_id"])
        weights[body["variant"]] = told["fusion"]["weight"]
        assert told["variant"]["name"] == body["variant"]
        assert told["variant"]["propensity"] == 0.5
        assert replay(told).identical
    assert weights["nearest/nearest"] == 1.0
    assert weights["nearest/control"] < 1.0


async def test_exposures_are_kept_once_with_the_record_and_without_the_users_name(world: World, acme) -> None:
    await create(world)
    for number in range(40):
        await search(world, acme, user=f"user-{number % 20}")
    shown = (await world.client.get("/admin/v1/experiments/nearest", headers=world.operator)).json()
    assert sum(shown["analysis"]["questions"].values()) == 40
    assert sum(shown["analysis"]["exposed"].values()) == 20
    rows = list(world.platform.audit.outcomes(world.platform.store.get_tenant("acme").uid, experiment="nearest"))
    assert len({row.query_id for row in rows}) == 40
    assert not any("user-" in row.unit for row in rows)
    assert shown["state"] == "running"
    assert shown["analysis"]["verdict"]["word"] == "collecting"


async def test_a_ramp_of_zero_exposes_nobody_and_a_higher_one_moves_nobody(world: World, acme) -> None:
    await create(world, ramp=0)
    assert (await search(world, acme, user="ann"))["variant"] == "default"
    changed = await world.client.patch("/admin/v1/experiments/nearest", json={"ramp": 0.5}, headers=world.operator)
    assert changed.json()["ramp"] == 0.5
    forget(world)
    half = {user: (await search(world, acme, user=user))["variant"] for user in map(str, range(40))}
    assert "default" in half.values()
    await world.client.patch("/admin/v1/experiments/nearest", json={"ramp": 1}, headers=world.operator)
    forget(world)
    for user, variant in half.items():
        whole = (await search(world, acme, user=user))["variant"]
        assert whole == variant if variant != "default" else whole != "default"


async def test_promotion_and_rollback_change_who_answers_and_stand_in_the_chain(world: World, acme) -> None:
    await create(world)
    promoted = await world.client.post("/admin/v1/experiments/nearest/promote", json={}, headers=world.operator)
    assert (promoted.status_code, promoted.json()["outcome"]["word"]) == (200, "promoted")
    forget(world)
    for user in map(str, range(8)):
        body = await search(world, acme, user=user)
        assert body["variant"] == "nearest/nearest"
        assert (await record(world, acme, body["query_id"]))["fusion"]["weight"] == 1.0
    twice = await world.client.post("/admin/v1/experiments/nearest/promote", json={}, headers=world.operator)
    assert twice.status_code == 409
    back = await world.client.post("/admin/v1/experiments/nearest/rollback", headers=world.operator)
    assert back.json()["outcome"]["word"] == "rolled back"
    forget(world)
    assert (await search(world, acme, user="1"))["variant"] == "default"
    again = await world.client.post("/admin/v1/experiments/nearest/rollback", headers=world.operator)
    assert again.status_code == 409
    uid = world.platform.store.get_tenant("acme").uid
    changes = [one["change"] for one in world.platform.audit.export(uid) if one.get("state") == "change"]
    assert [one["action"] for one in changes] == ["create", "end", "promote", "rollback"]
    assert world.platform.audit.verify_chain(uid).intact


async def test_one_experiment_after_the_other_builds_on_what_was_promoted(world: World, acme) -> None:
    await create(world)
    await world.client.post("/admin/v1/experiments/nearest/promote", json={}, headers=world.operator)
    arms = [{"name": "control"}, {"name": "short", "overrides": {"answer": {"evidence": 1}}}]
    await create(world, name="shorter", arms=arms)
    seen = {(await search(world, acme, user=user))["variant"] for user in map(str, range(16))}
    assert seen == {"shorter/control", "shorter/short"}
    await world.client.post("/admin/v1/experiments/shorter/promote", json={"arm": "short"}, headers=world.operator)
    champion = world.platform.store.champions(world.platform.store.get_tenant("acme"))[0].champion
    assert champion.overrides == {**DENSE, "answer": {"evidence": 1}}
    await world.client.post("/admin/v1/experiments/shorter/rollback", headers=world.operator)
    forget(world)
    assert (await search(world, acme, user="1"))["variant"] == "nearest/nearest"


async def test_an_interleaved_list_credits_clicks_and_replays(world: World, acme) -> None:
    await create(world, kind="interleaving", window_s=60)
    credited = 0
    for number in range(6):
        body = await search(world, acme, user=str(number), top_k=12)
        told = await record(world, acme, body["query_id"])
        two = told["interleaved"]
        assert [hit["chunk_id"] for hit in body["results"]] == two["order"][: len(body["results"])]
        assert replay(told).identical
        assert replay(told).order == tuple(two["order"])
        mine = next((c for c, team in zip(two["order"], two["teams"], strict=True) if team == "b"), None)
        credited += mine is not None
        if mine is not None:
            clicked = {"query_id": body["query_id"], "clicked": [mine]}
            assert (await world.client.post("/t/acme/v1/feedback", json=clicked, headers=acme)).status_code == 204
    assert credited == 6
    await world.client.post("/admin/v1/experiments/nearest/stop", json={}, headers=world.operator)  # closes the windows
    shown = (await world.client.get("/admin/v1/experiments/nearest", headers=world.operator)).json()
    (mean,) = shown["analysis"]["means"]
    assert (mean["name"], mean["mean"], mean["units"]) == ("credit", 1.0, 6)


async def test_a_tampered_interleaving_does_not_replay(world: World, acme) -> None:
    await create(world, kind="interleaving")
    told = await record(world, acme, (await search(world, acme, user="1"))["query_id"])
    flipped = told["interleaved"] | {"teams": ["a"] * len(told["interleaved"]["teams"])}
    assert not replay(told | {"interleaved": flipped}).identical


async def test_a_shadow_answers_by_the_control_and_ranks_by_the_other_arm_afterwards(world: World, acme) -> None:
    steps = world.platform.steps

    async def ranked(question, scope, caller):
        return await prepare(question, scope, steps, caller, choose=page)

    rivals = ShadowRivals(ranked, steps.audit, lambda: True)
    object.__setattr__(world.platform, "steps", replace(steps, rivals=rivals))
    await create(world, kind="shadow")
    bodies = [await search(world, acme, user=str(number)) for number in range(5)]
    assert {body["variant"] for body in bodies} == {"nearest/control"}
    await rivals.settle()
    rows = list(world.platform.audit.outcomes(world.platform.store.get_tenant("acme").uid, experiment="nearest"))
    assert sorted(row.arm for row in rows) == ["control"] * 5 + ["nearest"] * 5
    shown = (await world.client.get("/admin/v1/experiments/nearest", headers=world.operator)).json()
    overlap = next(one for one in shown["analysis"]["means"] if one["name"] == "overlap")
    assert (overlap["units"], overlap["mean"] <= 1.0) == (5, True)
    # The question's own record is what is read, not the shadow's.
    assert (await record(world, acme, bodies[0]["query_id"]))["state"] == "complete"


async def test_streams_and_chats_are_exposed_too(world: World, acme) -> None:
    await create(world)
    chat = {"model": "fathom", "messages": [{"role": "user", "content": "which river is number 7?"}], "user": "ann"}
    answer = (await world.client.post("/t/acme/v1/chat/completions", json=chat, headers=acme)).json()
    same = await search(world, acme, user="ann")
    assert answer["choices"][0]["message"]["fathom"]["variant"] == same["variant"]
    asked = {"query": "which river is number 7?", "user": "ann", "stream": True}
    text = (await world.client.post("/t/acme/v1/query", json=asked, headers=acme)).text
    assert f'"variant":"{same["variant"]}"' in text
    rows = list(world.platform.audit.outcomes(world.platform.store.get_tenant("acme").uid, experiment="nearest"))
    assert sorted((row.values["kind"], row.values["state"]) for row in rows) == [
        ("answer", "complete"),
        ("answer", "complete"),
        ("search", "complete"),
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({**SPEC, "tenants": ["nobody"]}, 404),
        ({**SPEC, "arms": []}, 422),
        ({**SPEC, "metric": "x"}, 422),
        ({**SPEC, "planned": 10**400}, 422),
        ({**SPEC, "minimum_effect": 1e-200}, 422),
        ({**SPEC, "window_s": 1e300}, 422),
        ({**SPEC, "name": "x" * 5_000}, 422),
        ({**SPEC, "tenants": ["acme"] * 2_000}, 422),
        ({**SPEC, "kind": "shadow", "guardrails": [{"metric": "answer_ms"}]}, 422),
        (with_model("models:/fathom-rerank-large-globex/3"), 422),
        ({**SPEC, "arms": [{"name": "a"}, {"name": "b", "overrides": {"quotas": {}}}]}, 422),
        ({}, 422),
        ([], 422),
    ],
)
async def test_a_bad_experiment_is_refused(world: World, acme, body, status) -> None:
    answer = await world.client.post("/admin/v1/experiments", json=body, headers=world.operator)
    assert answer.status_code == status, answer.text
    assert (await world.client.get("/admin/v1/experiments", headers=world.operator)).json() == {"experiments": []}


async def test_a_tenant_is_in_one_experiment_at_a_time(world: World, acme) -> None:
    await create(world)
    second = await world.client.post("/admin/v1/experiments", json=SPEC | {"name": "b"}, headers=world.operator)
    assert (second.status_code, "nearest" in second.json()["detail"]) == (409, True)
    same = await world.client.post("/admin/v1/experiments", json=SPEC, headers=world.operator)
    assert same.status_code == 409
    stopped = await world.client.post("/admin/v1/experiments/nearest/stop", json={"why": "x"}, headers=world.operator)
    assert stopped.json()["outcome"]["word"] == "stopped"
    forget(world)
    assert (await search(world, acme, user="1"))["variant"] is None
    await create(world, name="b")


async def test_tenants_may_not_touch_experiments(world: World, acme) -> None:
    await create(world)
    for method, path in (
        ("GET", "/admin/v1/experiments"),
        ("GET", "/admin/v1/experiments/nearest"),
        ("POST", "/admin/v1/experiments/nearest/promote"),
        ("DELETE", "/admin/v1/experiments/nearest"),
    ):
        assert (await world.client.request(method, path, headers=acme)).status_code == 403
    missing = await world.client.get("/admin/v1/experiments/none", headers=world.operator)
    assert missing.status_code == 404


async def test_a_dry_run_plans_from_the_tenants_own_past(world: World, acme) -> None:
    for number in range(60):
        await search(world, acme, user=f"u{number}")
    asked = SPEC | {"metric": "answer_ms", "minimum_effect": 0.1}
    answer = await world.client.post("/admin/v1/experiments?dry_run=true", json=asked, headers=world.operator)
    plan = answer.json()["plan"]
    assert (plan["units_seen"], plan["planned"] > 100, plan["days_needed"] > 0) == (60, True, True)
    assert (await world.client.get("/admin/v1/experiments", headers=world.operator)).json() == {"experiments": []}


async def test_a_harmful_arm_is_stopped_without_anybody(world: World, acme) -> None:
    await create(world, metric="clicked", window_s=60)
    for number in range(260):
        body = await search(world, acme, user=str(number))
        if body["variant"] == "nearest/control" and number % 3:
            clicked = {"query_id": body["query_id"], "clicked": [body["results"][0]["chunk_id"]]}
            await world.client.post("/t/acme/v1/feedback", json=clicked, headers=acme)
    platform = world.platform
    later = Desk(platform.store, platform.audit, platform.steps.audit, platform.settings, _in_an_hour)
    await asyncio.to_thread(later.look)
    forget(world)
    shown = (await world.client.get("/admin/v1/experiments/nearest", headers=world.operator)).json()
    assert (shown["state"], shown["outcome"]["word"], shown["outcome"]["by"]) == ("stopped", "harmful", "guardrail")
    assert shown["outcome"]["verdict"]["harmful"] == ["nearest"]
    assert (await search(world, acme, user="1"))["variant"] is None


def _in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


async def test_the_end_sees_every_window_closed_and_a_name_begins_anew(world: World, acme) -> None:
    await create(world, window_s=3_600)
    for number in range(6):
        await search(world, acme, user=str(number))
    stopped = await world.client.post("/admin/v1/experiments/nearest/stop", json={}, headers=world.operator)
    assert "6 of" in stopped.json()["outcome"]["verdict"]["reason"]
    deleted = await world.client.delete("/admin/v1/experiments/nearest", headers=world.operator)
    assert deleted.json() == {"name": "nearest", "deleted": True}
    await create(world, window_s=0)
    shown = (await world.client.get("/admin/v1/experiments/nearest", headers=world.operator)).json()
    assert sum(shown["analysis"]["exposed"].values()) == 0


async def test_what_serves_does_not_change_under_a_running_experiment(world: World, acme) -> None:
    await create(world)
    await world.client.post("/admin/v1/experiments/nearest/promote", json={}, headers=world.operator)
    await create(world, name="second")
    for action in ("promote", "rollback"):
        refused = await world.client.post(f"/admin/v1/experiments/nearest/{action}", json={}, headers=world.operator)
        assert (refused.status_code, "second" in refused.json()["detail"]) == (409, True)
    running = await world.client.delete("/admin/v1/experiments/second", headers=world.operator)
    assert running.status_code == 409


async def test_a_plan_is_made_of_what_users_clicked(world: World, acme) -> None:
    for number in range(60):
        body = await search(world, acme, user=f"u{number}")
        if number % 2:
            clicked = {"query_id": body["query_id"], "clicked": [body["results"][0]["chunk_id"]]}
            await world.client.post("/t/acme/v1/feedback", json=clicked, headers=acme)
    asked = SPEC | {"metric": "clicked", "minimum_effect": 0.1, "window_s": 600}
    answer = await world.client.post("/admin/v1/experiments?dry_run=true", json=asked, headers=world.operator)
    plan = answer.json()["plan"]
    assert (plan["units_seen"], plan["mean"]) == (60, 0.5)
    assert plan["planned"] > 1_000


async def test_a_stream_that_is_left_is_no_quick_answer(world: World, acme) -> None:
    await create(world, metric="answer_ms")
    uid = world.platform.store.get_tenant("acme").uid
    body = {"query": "which river is number 7?", "user": "ann", "stream": True}
    async with world.client.stream("POST", "/t/acme/v1/query", json=body, headers=acme) as answer:
        async for _ in answer.aiter_raw():
            break
    states = [row.values["state"] for row in world.platform.audit.outcomes(uid, experiment="nearest")]
    assert set(states) <= {"streaming", "complete"}


async def test_a_promotion_that_was_cut_off_is_finished_by_doing_it_again(world: World, acme) -> None:
    other = world.tenant("globex")
    await world.put("globex", other, **DOCS)
    await create(world, tenants=["acme", "globex"])
    store = world.platform.store
    found = store.get_experiment("nearest")
    store.stop_experiment("nearest", {"word": "promoted", "arm": "nearest", "by": "operator"})
    store.promote(store.get_tenant("acme"), "nearest/nearest", DENSE, "operator")  # and then the process died
    again = await world.client.post("/admin/v1/experiments/nearest/promote", json={}, headers=world.operator)
    assert again.status_code == 200, again.text
    for name, _ in found.tenants:
        rows = store.champions(store.get_tenant(name))
        assert [row.champion.variant for row in rows] == ["nearest/nearest"]
