"""Documents, versions, jobs, idempotency and quotas through the whole application."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from urllib.parse import quote

import pytest

from tenants.errors import Overloaded, Unavailable

DOCUMENTS = "/t/acme/v1/documents"


async def test_documents_are_listed_in_pages_by_id(world) -> None:
    key = world.tenant("acme")
    ids = [f"a/{n:02d} ü" for n in range(7)]
    await world.put("acme", key, **dict.fromkeys(ids, "text"))
    seen, cursor = [], None
    while True:
        query = "?limit=3" + (f"&cursor={cursor}" if cursor else "")
        page = (await world.client.get(DOCUMENTS + query, headers=key)).json()
        seen += [row["id"] for row in page["documents"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids


@pytest.mark.parametrize("document", ["plain", "with/slash", "https://a.example/x?y=1#z", "späße 100%", "a//b/../c"])
async def test_an_id_survives_the_address(world, document: str) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, **{document: "text"})
    address = f"{DOCUMENTS}/{quote(document, safe='')}"
    assert (await world.client.get(address, headers=key)).json()["id"] == document
    assert (await world.client.delete(address, headers=key)).json() == {"index_version": 2}
    assert (await world.client.get(address, headers=key)).status_code == 404


async def test_files_are_indexed_under_their_names(world) -> None:
    key = world.tenant("acme")
    files = [("files", ("notes/a.md", b"# A")), ("files", ("b.txt", b"B"))]
    answer = await world.client.post(DOCUMENTS, files=files, data={"collection": "notes"}, headers=key)
    assert (answer.status_code, answer.json()["indexed"]) == (200, 2)
    assert (await world.client.get(DOCUMENTS + "/notes/a.md", headers=key)).status_code == 200


@pytest.mark.parametrize("name", ["../../etc/passwd", "..\\up.txt", "a/./b", ""])
async def test_a_files_name_is_a_name_and_no_place(world, name: str) -> None:
    key = world.tenant("acme")
    answer = await world.client.post(DOCUMENTS, files=[("files", (name, b"x"))], headers=key)
    assert answer.status_code == 422


async def test_rollback_and_erase(world) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, a="one")
    assert (await world.client.post("/t/acme/v1/rollback", json={}, headers=key)).status_code == 409
    await world.put("acme", key, b="two")
    assert (await world.client.post("/t/acme/v1/rollback", json={"to": 99}, headers=key)).status_code == 404
    assert (await world.client.post("/t/acme/v1/rollback", json={}, headers=key)).status_code == 200
    answer = await world.client.post("/t/acme/v1/erase", json={"documents": ["a"]}, headers=key)
    assert answer.json()["erased"] == 1


async def test_going_back_names_its_version_when_it_is_asked(world, monkeypatch) -> None:
    key, asked = world.tenant("acme"), []
    await world.put("acme", key, a="one")
    await world.put("acme", key, b="two")

    async def rollback(scope, to):
        asked.append(to)
        return {"index_version": to}

    monkeypatch.setattr(world.corpus, "rollback", rollback)
    await world.client.post("/t/acme/v1/rollback", json={}, headers=key)
    assert asked == [1]


async def test_a_repeat_with_the_same_key_does_the_work_once(world) -> None:
    key = world.tenant("acme") | {"Idempotency-Key": "k-1"}
    body = {"documents": [{"id": "a", "text": "one"}]}
    first = await world.client.post(DOCUMENTS, json=body, headers=key)
    second = await world.client.post(DOCUMENTS, json=body, headers=key)
    assert (first.content, first.status_code) == (second.content, second.status_code)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    other = await world.client.post(DOCUMENTS, json={"documents": [{"id": "b", "text": "x"}]}, headers=key)
    assert other.status_code == 422


async def test_files_with_a_key_are_indexed_once(world) -> None:
    key = world.tenant("acme") | {"Idempotency-Key": "k-1"}
    first = await world.client.post(DOCUMENTS, files=[("files", ("a.md", b"# A"))], headers=key)
    second = await world.client.post(DOCUMENTS, files=[("files", ("a.md", b"# A"))], headers=key)
    assert (first.status_code, first.json()["index_version"]) == (200, 1)
    assert (second.content, second.headers["idempotent-replayed"]) == (first.content, "true")
    for files, collection in ((b"# B", "default"), (b"# A", "other")):
        answer = await world.client.post(
            DOCUMENTS, files=[("files", ("a.md", files))], data={"collection": collection}, headers=key
        )
        assert answer.status_code == 422


@pytest.mark.parametrize("fault", [RuntimeError("x"), Unavailable("the indexer is not there")])
async def test_a_key_stays_locked_when_nobody_knows_what_was_done(world, monkeypatch, fault: Exception) -> None:
    key = world.tenant("acme") | {"Idempotency-Key": "k-1"}
    body = {"documents": [{"id": "a", "text": "one"}]}

    async def fails(*arguments):
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(world.corpus, "index", fails)
        assert (await world.client.post(DOCUMENTS, json=body, headers=key)).status_code in (500, 503)
    again = await world.client.post(DOCUMENTS, json=body, headers=key)
    assert (again.status_code, again.json()["code"]) == (409, "in_flight")


async def test_a_key_is_free_after_a_refusal(world, monkeypatch) -> None:
    key = world.tenant("acme") | {"Idempotency-Key": "k-1"}
    body = {"documents": [{"id": "a", "text": "one"}]}

    async def full(*arguments):
        raise Overloaded("the indexer is full")

    with monkeypatch.context() as patched:
        patched.setattr(world.corpus, "index", full)
        assert (await world.client.post(DOCUMENTS, json=body, headers=key)).status_code == 503
    assert (await world.client.post(DOCUMENTS, json=body, headers=key)).status_code == 200


async def test_a_repeat_while_the_first_is_at_work_is_told_so(world, monkeypatch) -> None:
    key = world.tenant("acme") | {"Idempotency-Key": "k-1"}
    body, entered, leave = {"documents": [{"id": "a", "text": "one"}]}, asyncio.Event(), asyncio.Event()
    index = world.corpus.index

    async def slow(*arguments):
        entered.set()
        await leave.wait()
        return await index(*arguments)

    monkeypatch.setattr(world.corpus, "index", slow)
    first = asyncio.create_task(world.client.post(DOCUMENTS, json=body, headers=key))
    await entered.wait()
    second = await world.client.post(DOCUMENTS, json=body, headers=key)
    leave.set()
    assert (second.status_code, second.json()["code"]) == (409, "in_flight")
    assert (await first).status_code == 200


async def test_a_failure_that_may_be_retried_is_not_remembered(world) -> None:
    key = world.tenant("acme") | {"Idempotency-Key": "k-1"}
    body = {"sources": ["https://docs.example.com/public/a"]}
    world.jobs.full = True
    assert (await world.client.post("/t/acme/v1/jobs", json=body, headers=key)).status_code == 503
    world.jobs.full = False
    assert (await world.client.post("/t/acme/v1/jobs", json=body, headers=key)).status_code == 202


async def test_a_final_failure_is_remembered(world) -> None:
    key = world.tenant("acme") | {"Idempotency-Key": "k-1"}
    first = await world.client.post("/t/acme/v1/rollback", json={"to": 5}, headers=key)
    second = await world.client.post("/t/acme/v1/rollback", json={"to": 5}, headers=key)
    assert (first.status_code, second.status_code) == (404, 404)
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["content-type"] == "application/problem+json"


async def test_a_new_key_is_replayed_and_made_once(world) -> None:
    headers = world.operator | {"Idempotency-Key": "t-1"}
    first = await world.client.post("/admin/v1/tenants", json={"name": "acme"}, headers=headers)
    second = await world.client.post("/admin/v1/tenants", json={"name": "acme"}, headers=headers)
    assert first.json()["api_key"] == second.json()["api_key"]


async def test_a_tenant_whose_first_key_fails_is_not_left_behind(world, monkeypatch) -> None:
    def fails(*arguments):
        raise Unavailable("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(world.platform.store, "add_key", fails)
        answer = await world.client.post("/admin/v1/tenants", json={"name": "acme"}, headers=world.operator)
        assert answer.status_code == 503
    assert (await world.client.post("/admin/v1/tenants", json={"name": "acme"}, headers=world.operator)).is_success


async def test_a_tenant_has_so_many_jobs_at_once_and_lost_ones_do_not_count(world, monkeypatch) -> None:
    key, other = world.tenant("acme"), world.tenant("other")
    body = {"sources": ["https://docs.example.com/public/a"]}

    async def submit(name, headers):
        return (await world.client.post(f"/t/{name}/v1/jobs", json=body, headers=headers)).status_code

    at_once = [await submit("acme", key) for _ in range(5)]
    assert (at_once, await submit("other", other)) == ([202, 202, 202, 202, 429], 202)
    assert len(world.platform.store.open_jobs(world.platform.store.get_tenant("acme"))) == 4
    monkeypatch.setattr("services.gateway.routes.jobs.SILENCE", timedelta(0))
    world.jobs.lost = True
    assert await submit("acme", key) == 202


async def test_a_job_goes_to_the_submitter_with_its_row(world) -> None:
    key = world.tenant("acme")
    body = {"sources": ["https://docs.example.com/public/a b".replace(" ", "%20")], "sync": True}
    job_id = (await world.client.post("/t/acme/v1/jobs", json=body, headers=key)).json()["job_id"]
    assert [(tenant, job) for tenant, job, _ in world.jobs.submitted] == [("acme", job_id)]
    job = (await world.client.get(f"/t/acme/v1/jobs/{job_id}", headers=key)).json()
    assert (job["state"], job["documents"], job["errors"]) == (
        "queued",
        dict.fromkeys(("new", "changed", "unchanged", "deleted", "failed"), 0),
        [],
    )
    assert [row["job_id"] for row in (await world.client.get("/t/acme/v1/jobs", headers=key)).json()["jobs"]] == [
        job_id
    ]
    cancelled = await world.client.post(f"/t/acme/v1/jobs/{job_id}/cancel", headers=key)
    assert cancelled.json()["state"] == "cancelled"
    assert world.jobs.stopped == [job_id]


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "https://evil.example.com/x",
        "https://docs.example.com/private/x",
        "https://docs.example.com.evil.net/public/x",
        "https://docs.example.com/public/../private/x",
        "https://user@docs.example.com/public/x",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/x",
    ],
)
async def test_a_source_that_is_not_allowed_is_named(world, source: str) -> None:
    key = world.tenant("acme")
    answer = await world.client.post("/t/acme/v1/jobs", json={"sources": [source]}, headers=key)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/sources/0")
    assert world.jobs.submitted == []


async def test_the_rate_is_told_and_kept(world) -> None:
    key = world.tenant("acme", quotas={"requests_per_minute": 2})
    other = world.tenant("other")
    answers = [await world.client.get("/t/acme/v1/versions", headers=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=2;w=60'
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
    assert int(answers[2].headers["retry-after"]) >= 1
    assert answers[2].json()["retryable"] is True
    assert (await world.client.get("/t/other/v1/versions", headers=other)).status_code == 200


async def test_a_job_whose_process_is_gone_has_failed(world, monkeypatch) -> None:
    key = world.tenant("acme")
    body = {"sources": ["https://docs.example.com/public/a"]}
    job_id = (await world.client.post("/t/acme/v1/jobs", json=body, headers=key)).json()["job_id"]
    monkeypatch.setattr("services.gateway.routes.jobs.SILENCE", timedelta(0))
    assert (await world.client.get(f"/t/acme/v1/jobs/{job_id}", headers=key)).json()["state"] == "queued"
    world.jobs.lost = True
    job = (await world.client.get(f"/t/acme/v1/jobs/{job_id}", headers=key)).json()
    assert (job["state"], "process ended" in job["error"]) == ("failed", True)


@pytest.mark.parametrize(
    ("step", "ask", "gate"),
    [
        ("index", ("POST", DOCUMENTS), "writes"),
        ("documents", ("GET", DOCUMENTS), "gate"),
        ("versions", ("GET", "/t/acme/v1/versions"), "gate"),
    ],
)
async def test_writes_and_listings_take_a_place(world, monkeypatch, step: str, ask: tuple[str, str], gate: str) -> None:
    key = world.tenant("acme", quotas={"concurrent": 1})
    real, entered, leave = getattr(world.corpus, step), asyncio.Event(), asyncio.Event()

    async def slow(*arguments):
        entered.set()
        await leave.wait()
        return await real(*arguments)

    monkeypatch.setattr(world.corpus, step, slow)
    body = {"documents": [{"id": "a", "text": "one"}]} if ask[0] == "POST" else None
    first = asyncio.create_task(world.client.request(*ask, json=body, headers=key))
    await entered.wait()
    places = world.platform.gate.running, world.platform.writes.running
    second = await world.client.request(*ask, json=body, headers=key)
    leave.set()
    assert places == ((0, 1) if gate == "writes" else (1, 0))
    assert (second.status_code, (await first).status_code) == (429, 200)


async def test_long_work_in_threads_keeps_nobody_at_the_door(world) -> None:
    key, leave = world.tenant("acme"), threading.Event()
    everyone = [asyncio.create_task(asyncio.to_thread(leave.wait, 300)) for _ in range(64)]
    try:
        async with asyncio.timeout(200):
            assert (await world.client.get("/t/acme/v1/models", headers=key)).status_code == 200
    finally:
        leave.set()
        await asyncio.gather(*everyone)
