"""Who may do what; and that nothing of one tenant is reachable by another through any route."""

from __future__ import annotations

import pytest

CANARY = "zebracanary"

# (method, path below /t/{tenant}/v1, body, smallest scope)
ROUTES = [
    ("POST", "/search", {"query": CANARY}, "query"),
    ("POST", "/query", {"query": CANARY}, "query"),
    ("POST", "/query", {"query": CANARY, "stream": True}, "query"),
    ("POST", "/embeddings", {"input": "x"}, "query"),
    ("GET", "/models", None, "query"),
    ("GET", "/documents", None, "query"),
    ("GET", "/documents/secret", None, "query"),
    ("POST", "/documents", {"documents": [{"id": "new", "text": "x"}]}, "index"),
    ("DELETE", "/documents/secret", None, "index"),
    ("GET", "/versions", None, "query"),
    ("POST", "/rollback", {}, "admin"),
    ("POST", "/erase", {"documents": ["secret"]}, "admin"),
    ("GET", "/queries/q_" + "0" * 32, None, "query"),
    ("POST", "/feedback", {"query_id": "q_" + "0" * 32, "rating": 1}, "query"),
    ("GET", "/jobs", None, "query"),
    ("GET", "/jobs/job_1", None, "query"),
    ("POST", "/jobs", {"sources": ["https://docs.example.com/public/a"]}, "index"),
    ("POST", "/jobs/job_1/cancel", None, "index"),
]
IDS = [f"{method} {path}" for method, path, _, _ in ROUTES]
RANK = {"query": 1, "index": 2, "admin": 3}


def comparable(answer) -> tuple[int, dict[str, object]]:
    """An error without the members that differ by request."""
    body = answer.json()
    (body.get("error") or body).pop("request_id")
    return answer.status_code, body


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES, ids=IDS)
async def test_a_foreign_tenant_answers_like_none(world, method, path, body, scope) -> None:
    victim, thief = world.tenant("victim"), world.tenant("thief")
    await world.put("victim", victim, secret=f"{CANARY} is the word")
    foreign = await world.client.request(method, f"/t/victim/v1{path}", json=body, headers=thief)
    unknown = await world.client.request(method, f"/t/nobody/v1{path}", json=body, headers=thief)
    assert foreign.status_code == 404
    assert comparable(foreign) == comparable(unknown)
    own = await world.client.request(method, f"/t/thief/v1{path}", json=body, headers=thief)
    # The audit record repeats the thief's own question; the victim's text is more than that.
    assert "is the word" not in own.text
    assert "secret" in (await world.client.get("/t/victim/v1/documents", headers=victim)).text


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES, ids=IDS)
async def test_every_route_wants_a_key_and_its_scope(world, method, path, body, scope) -> None:
    world.tenant("acme")
    address = f"/t/acme/v1{path}"
    for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer nonsense"}):
        answer = await world.client.request(method, address, json=body, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for held in RANK:
        answer = await world.client.request(method, address, json=body, headers=world.key("acme", held))
        assert (answer.status_code == 403) == (RANK[held] < RANK[scope])


async def test_a_suspended_tenant_is_refused_and_its_operator_is_not(world) -> None:
    key = world.tenant("acme")
    world.platform.store.set_state("acme", "suspended")
    body = {"query": "x"}
    assert (await world.client.post("/t/acme/v1/search", json=body, headers=key)).status_code == 403
    assert (await world.client.post("/t/acme/v1/search", json=body, headers=world.operator)).status_code == 200


async def test_a_revoked_key_dies(world) -> None:
    key = world.tenant("acme")
    tenant = world.platform.store.get_tenant("acme")
    assert (await world.client.get("/t/acme/v1/versions", headers=key)).status_code == 200
    world.platform.store.revoke_key(tenant, world.platform.store.list_keys(tenant)[0].key_id)
    world.platform.keys._known.clear()
    assert (await world.client.get("/t/acme/v1/versions", headers=key)).status_code == 401


async def test_admin_routes_want_the_admin_key(world) -> None:
    key = world.tenant("acme")
    assert (await world.client.get("/admin/v1/tenants")).status_code == 401
    assert (await world.client.get("/admin/v1/tenants", headers={"Authorization": "Bearer x"})).status_code == 401
    assert (await world.client.get("/admin/v1/tenants", headers=key)).status_code == 403
    assert (await world.client.get("/admin/v1/tenants", headers=world.operator)).status_code == 200


async def test_the_operators_day(world) -> None:
    client, operator = world.client, world.operator
    made = await client.post("/admin/v1/tenants", json={"name": "acme"}, headers=operator)
    assert made.status_code == 201
    key = {"Authorization": f"Bearer {made.json()['api_key']}"}
    assert (await client.get("/t/acme/v1/versions", headers=key)).status_code == 200
    again = await client.post("/admin/v1/tenants", json={"name": "acme"}, headers=operator)
    assert again.status_code == 409
    patch = {"config": {"quotas": {"requests_per_minute": 7}}}
    changed = await client.patch("/admin/v1/tenants/acme", json=patch, headers=operator)
    assert changed.json()["config"]["quotas"]["requests_per_minute"] == 7
    wrong = await client.patch("/admin/v1/tenants/acme", json={"config": {"quota": {}}}, headers=operator)
    assert wrong.status_code == 422
    assert "quotas" in wrong.json()["detail"]
    extra = await client.post("/admin/v1/tenants/acme/keys", json={"scope": "query", "expires": "1h"}, headers=operator)
    assert extra.status_code == 201
    keys = (await client.get("/admin/v1/tenants/acme/keys", headers=operator)).json()["keys"]
    assert [each["scope"] for each in keys] == ["admin", "query"]
    assert extra.json()["api_key"] not in str(keys)
    gone = await client.delete(f"/admin/v1/tenants/acme/keys/{extra.json()['key_id']}", headers=operator)
    assert gone.json()["revoked_at"] is not None
    await world.put("acme", key, a="text")
    assert (await client.delete("/admin/v1/tenants/acme", headers=operator)).json() == {
        "tenant": "acme",
        "deleted": True,
    }
    assert world.corpus.versions_of == {}
    assert (await client.get("/admin/v1/tenants/acme", headers=operator)).status_code == 404
