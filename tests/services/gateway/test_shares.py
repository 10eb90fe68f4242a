"""Shared collections through HTTP, over real tables: granting, revoking, and that nobody else learns a thing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from jobs.indexing.batches import BatchWriter
from services.catalogue import CorpusCatalogue
from services.embedding.queries import QueryEncoder
from services.evidence.extract import ExtractiveAnswerer
from services.gateway.app import create_app
from services.query import Steps
from services.reranking.first_stage import FirstStage
from services.retrieval.search import LocalRetriever
from tenants.scope import TenantScope
from tests.jobs.line.hashing import DIMENSION, HashEmbed

CANARY = "zanzibar quokka"  # only the library's private documents say it
NAME = "library/manuals"


class HashEncoder:
    """What HashEmbed made of a text would need the same seed; here only full-text search has to find anything."""

    dimension = DIMENSION

    class info:  # noqa: N801 - stands where an encoder's info stands
        class recipe:  # noqa: N801
            query_prefix = ""

    def encode(self, texts: list[str]) -> Any:
        row = np.zeros(DIMENSION, np.float32)
        row[0] = 1.0
        return np.stack([row for _ in texts])


@pytest.fixture
async def shared(world: Any) -> AsyncIterator[Any]:
    """The world with the real catalogue and retriever: `library` owns manuals and secrets, `acme` and `eve` ask."""
    platform, embed = world.platform, HashEmbed()
    writer = BatchWriter(platform.settings, platform.store, lambda context: embed)
    headers = {name: world.tenant(name, shared_collections=[NAME]) for name in ("acme", "eve")}
    headers["ned"] = world.tenant("ned", shared_collections=["nobody/manuals"])
    headers["library"] = world.tenant("library")

    def put(name: str, collection: str, **texts: str) -> None:
        tenant = platform.store.get_tenant(name)
        scope = TenantScope(tenant.name, tenant.uid, tenant.config, platform.settings.root)
        writer.index_documents(scope, [{"id": key, "text": text} for key, text in texts.items()], collection=collection)

    put("library", "manuals", pump="the pump of the library needs oil")
    put("library", "private", secret=f"{CANARY} pump oil is our secret")
    put("acme", "default", own="a pump of acme")
    for name in ("eve", "ned"):
        put(name, "default", own="a pump of its own")
    retriever = LocalRetriever(QueryEncoder(lambda _: HashEncoder()), platform.settings.retrieval)
    steps = Steps(retriever, FirstStage(), ExtractiveAnswerer(retriever), platform.steps.audit)
    real = replace(platform, catalogue=CorpusCatalogue(platform.store), steps=steps)
    transport = httpx.ASGITransport(create_app(real), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield Shares(world, client, headers)
    await retriever.close()


class Shares:
    """The questions of the tests."""

    def __init__(self, world: Any, client: httpx.AsyncClient, headers: dict[str, dict[str, str]]) -> None:
        self.world, self.client, self.headers = world, client, headers

    async def grant(self, subscriber: str = "acme", collection: str = "manuals") -> httpx.Response:
        body = {"collection": collection, "subscriber": subscriber}
        path = "/admin/v1/tenants/library/shares"
        return await self.client.post(path, json=body, headers=self.world.operator)

    async def revoke(self, subscriber: str = "acme") -> httpx.Response:
        path = f"/admin/v1/tenants/library/shares/manuals/{subscriber}"
        return await self.client.delete(path, headers=self.world.operator)

    async def search(self, tenant: str = "acme", query: str = "pump oil", **body: Any) -> dict[str, Any]:
        answer = await self.post(tenant, "search", {"query": query, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, tenant: str, verb: str, body: dict[str, Any]) -> httpx.Response:
        return await self.client.post(f"/t/{tenant}/v1/{verb}", json=body, headers=self.headers[tenant])


def found(result: dict[str, Any]) -> set[tuple[str, str]]:
    return {(hit["collection"], hit["document_id"]) for hit in result["results"]}


async def test_what_is_granted_is_found_with_its_name_and_audited(shared: Shares) -> None:
    made = await shared.grant()
    assert made.status_code == 201
    assert made.json() | {"created_at": ""} == {
        "name": NAME, "owner": "library", "collection": "manuals", "subscriber": "acme", "created_at": "",
    }  # fmt: skip
    result = await shared.search()
    assert found(result) == {(NAME, "pump"), ("default", "own")}
    assert result["degraded"] == []
    record = (
        await shared.client.get(f"/t/acme/v1/queries/{result['query_id']}", headers=shared.headers["acme"])
    ).json()
    chunk = next(hit["chunk_id"] for hit in result["results"] if hit["collection"] == NAME)
    assert record["shared"] == [{"collection": NAME, "index_version": 2, "chunk_id": [chunk]}]


async def test_revoking_holds_for_the_next_question(shared: Shares) -> None:
    await shared.grant()
    assert (NAME, "pump") in found(await shared.search())
    assert (await shared.revoke()).json() == {"name": NAME, "subscriber": "acme", "revoked": True}
    result = await shared.search()
    assert found(result) == {("default", "own")}
    assert result["degraded"] == ["partial_candidates"]
    assert (await shared.revoke()).status_code == 404


async def test_a_suspended_or_deleted_owner_is_not_searched_and_said_so(shared: Shares) -> None:
    await shared.grant()
    store = shared.world.platform.store
    for end in (lambda: store.set_state("library", "suspended"), lambda: store.delete_tenant("library")):
        end()
        result = await shared.search()
        assert found(result) == {("default", "own")}
        assert result["degraded"] == ["partial_candidates"]


@pytest.mark.parametrize("where", ["nowhere", "collections", "filter"])
async def test_without_a_grant_it_looks_as_if_there_were_no_such_collection(shared: Shares, where: str) -> None:
    """`eve` names a collection that is there and not hers, `ned` one that nobody has: they get the same answer."""
    await shared.grant("acme")
    told = []
    for tenant, name in (("eve", NAME), ("ned", "nobody/manuals")):
        leaf = {"field": "collection", "op": "eq", "value": name}
        asked = {"nowhere": {}, "collections": {"collections": [name]}, "filter": {"filter": leaf}}[where]
        answer = await shared.post(tenant, "search", {"query": "pump oil", **asked})
        body = answer.json()
        for private in ("query_id", "timings_ms"):
            body.pop(private)
        for hit in body["results"]:
            hit.pop("chunk_id")
        told.append((answer.status_code, body))
    assert told[0] == told[1]
    assert told[0][1]["degraded"] == ["partial_candidates"]


@pytest.mark.parametrize("tenant", ["acme", "eve"])
async def test_no_endpoint_tells_of_private_documents(shared: Shares, tenant: str) -> None:
    await shared.grant("acme")
    headers = shared.headers[tenant]
    answers = [
        await shared.post(tenant, verb, {"query": text, **more})
        for verb in ("search", "query")
        for text in (CANARY, "secret pump oil")
        for more in ({}, {"collections": ["library/private"]}, {"collections": ["private"]}, {"explain": True})
    ]
    for path in ("documents", "documents/secret", "documents/pump", "documents/library%2Fmanuals%2Fpump", "versions"):
        answers.append(await shared.client.get(f"/t/{tenant}/v1/{path}", headers=headers))
    answers.append(await shared.client.get("/t/library/v1/documents", headers=headers))
    answers.append(await shared.client.get("/admin/v1/tenants/library/shares", headers=headers))
    told = "".join(answer.text for answer in answers)
    assert "is our secret" not in told
    assert [answer.status_code for answer in answers[-6:]] == [404, 404, 404, 200, 404, 403]
    if tenant == "eve":
        assert "of the library" not in told


async def test_a_tenant_cannot_grant_itself_anything(shared: Shares) -> None:
    body = {"collection": "manuals", "subscriber": "eve"}
    for headers, code in ((shared.headers["eve"], 403), (shared.headers["library"], 403), ({}, 401)):
        refused = await shared.client.post("/admin/v1/tenants/library/shares", json=body, headers=headers)
        assert refused.status_code == code
    assert found(await shared.search("eve")) == {("default", "own")}


async def test_erasing_a_shared_document_erases_its_text_from_the_subscribers_records(shared: Shares) -> None:
    await shared.grant()
    answer = (await shared.post("acme", "query", {"query": "what does the pump of the library need"})).json()
    assert answer["citations"]
    path = f"/t/acme/v1/queries/{answer['query_id']}"
    before = (await shared.client.get(path, headers=shared.headers["acme"])).text
    assert "needs oil" in before
    uid = shared.world.platform.store.get_tenant("library").uid
    assert shared.world.platform.audit.erase_documents(uid, ["pump"]) > 0
    after = (await shared.client.get(path, headers=shared.headers["acme"])).text
    assert "needs oil" not in after
    assert "what does the pump" in after


async def test_grants_are_listed_and_bad_ones_name_their_field(shared: Shares) -> None:
    await shared.grant()
    operator = shared.world.operator
    given = (await shared.client.get("/admin/v1/tenants/library/shares", headers=operator)).json()
    received = (await shared.client.get("/admin/v1/tenants/acme/shares", headers=operator)).json()
    assert [one["subscriber"] for one in given["given"]] == ["acme"]
    assert [one["name"] for one in received["received"]] == [NAME]
    assert given["received"] == received["given"] == []
    assert (await shared.grant("ghost")).json()["errors"][0]["pointer"] == "/subscriber"
    assert (await shared.grant("library")).json()["errors"][0]["pointer"] == "/subscriber"
    assert (await shared.grant(collection="a b")).json()["errors"][0]["pointer"] == "/collection"
    assert (await shared.client.get("/admin/v1/tenants/ghost/shares", headers=operator)).status_code == 404
