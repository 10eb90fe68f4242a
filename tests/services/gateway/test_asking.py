"""Search, query, streams, audit records and feedback through the whole application."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest

from tests import fakes

PARIS = "The capital of France is Paris, a city on the Seine."
ROME = "The capital of Italy is Rome, a city on the Tiber."


def events_of(text: str) -> list[tuple[str, Any]]:
    """(name, data) of every server-sent event."""
    blocks = [block.split("\n") for block in text.strip().split("\n\n") if not block.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def test_search_ranks_the_tenants_passages_and_says_what_was_decided(world) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, paris=PARIS, rome=ROME)
    answer = await world.client.post("/t/acme/v1/search", json={"query": "capital of Italy"}, headers=key)
    body = answer.json()
    assert answer.status_code == 200
    assert [hit["document_id"] for hit in body["results"]] == ["rome", "paris"]
    assert [hit["rank"] for hit in body["results"]] == [1, 2]
    assert body["rerank"]["decision"] == "unavailable"
    assert body["rerank"]["pairs"] == 0
    assert body["index_version"] == 1
    assert body["variant"] is None
    assert body["degraded"] == []


async def test_an_empty_index_answers_with_no_results(world) -> None:
    key = world.tenant("acme")
    answer = await world.client.post("/t/acme/v1/search", json={"query": "anything"}, headers=key)
    assert (answer.status_code, answer.json()["results"], answer.json()["index_version"]) == (200, [], 0)


async def test_query_cites_what_it_says(world) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, paris=PARIS, rome=ROME)
    answer = await world.client.post("/t/acme/v1/query", json={"query": "What is the capital of Italy?"}, headers=key)
    body = answer.json()
    assert answer.status_code == 200
    assert body["generator"] == "extractive"
    for citation in body["citations"]:
        shown = next(hit for hit in body["results"] if hit["chunk_id"] == citation["chunk_id"])
        assert citation["quote"] in shown["text"]
        assert f"[{citation['marker']}]" in body["answer"]


@pytest.mark.parametrize(
    ("configured", "asked", "degraded"),
    [
        ("auto", "vllm", ["generator_unavailable"]),
        ("vllm-small", None, ["generator_unavailable"]),
        ("vllm-small", "extractive", []),
        ("auto", "auto", []),
        ("extractive", None, []),
    ],
)
async def test_a_generator_that_is_not_there_is_told(world, configured: str, asked: str | None, degraded) -> None:
    key = world.tenant("acme", generator=configured)
    await world.put("acme", key, rome=ROME)
    body = {"query": "What is the capital of Italy?"} | ({"generator": asked} if asked else {})
    answer = (await world.client.post("/t/acme/v1/query", json=body, headers=key)).json()
    assert (answer["generator"], answer["degraded"]) == ("extractive", degraded)


async def test_a_stream_sends_the_evidence_first_and_the_whole_answer_last(world) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, paris=PARIS, rome=ROME)
    answer = await world.client.post(
        "/t/acme/v1/query", json={"query": "What is the capital of Italy?", "stream": True}, headers=key
    )
    events = events_of(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events[0][0] == "evidence"
    assert events[-1][0] == "answer"
    whole = events[-1][1]
    assert "".join(data["text"] for name, data in events if name == "token").strip() == whole["answer"].strip()
    assert [data for name, data in events if name == "citation"] == whole["citations"]


async def test_what_fails_before_the_first_event_is_an_ordinary_problem(world) -> None:
    key = world.tenant("acme")
    world.corpus.broken = True
    answer = await world.client.post("/t/acme/v1/query", json={"query": "why", "stream": True}, headers=key)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert world.platform.gate.running == 0


async def test_a_stream_that_nobody_reads_gives_its_place_back(world) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, paris=PARIS)
    raw = json.dumps({"query": "What is the capital of France?", "stream": True}).encode()
    scope = {"type": "http", "method": "POST", "path": "/t/acme/v1/query", "query_string": b"", "root_path": ""}
    scope |= {"headers": [(b"authorization", key["Authorization"].encode())], "scheme": "http", "http_version": "1.1"}
    scope |= {"server": ("gateway", 80)}
    messages, stalled, forever = [{"type": "http.request", "body": raw}], asyncio.Event(), asyncio.Event()

    async def receive():
        return messages.pop() if messages else await forever.wait()

    async def send(message):
        stalled.set()
        await forever.wait()

    asking = asyncio.create_task(world.client._transport.app(scope, receive, send))
    await stalled.wait()
    async with AsyncExitStack() as every_slot:
        for _ in range(world.platform.settings.gateway_slots):
            await every_slot.enter_async_context(world.platform.gate.admit("probe", timeout_s=60))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_finished_stream_gives_its_place_back(world) -> None:
    key = world.tenant("acme")
    for _ in range(world.platform.settings.gateway_slots + 1):
        body = {"query": "anything", "stream": True}
        assert (await world.client.post("/t/acme/v1/query", json=body, headers=key)).status_code == 200
    assert (world.platform.gate.running, world.platform.gate.waiting) == (0, 0)


async def test_group_by_document_is_taken_from_the_address_too(world, monkeypatch) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, paris=PARIS)

    async def two_chunks_of_one(scope, question):
        passages = [fakes.passage(n, text, "paris") for n, text in enumerate((PARIS, ROME))]
        return await fakes.FakeRetriever(passages).retrieve(scope, question)

    monkeypatch.setattr(world.corpus, "retrieve", two_chunks_of_one)
    for address, shown in (("search", 2), ("search?group_by=document", 1)):
        answer = await world.client.post(f"/t/acme/v1/{address}", json={"query": "capital"}, headers=key)
        assert len(answer.json()["results"]) == shown
    assert (
        await world.client.post("/t/acme/v1/search?group_by=x", json={"query": "x"}, headers=key)
    ).status_code == 422


async def test_many_texts_are_embedded_part_by_part_and_within_bounds(world, monkeypatch) -> None:
    key, parts, embed = world.tenant("acme"), [], world.corpus.embed

    async def noted(model, texts):
        parts.append(len(texts))
        return await embed(model, texts)

    monkeypatch.setattr(world.corpus, "embed", noted)
    texts = [f"{number} " + "word " * 600 for number in range(8)]
    answer = await world.client.post("/t/acme/v1/embeddings", json={"input": texts}, headers=key)
    assert [row["index"] for row in answer.json()["data"]] == list(range(8))
    assert np.allclose(answer.json()["data"][7]["embedding"], fakes.embed(texts)[7])
    assert parts == [2, 2, 2, 2]
    answer = await world.client.post("/t/acme/v1/embeddings", json={"input": ["x" * 8_192] * 17}, headers=key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_every_question_can_be_read_back(world) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, paris=PARIS)
    asked = (await world.client.post("/t/acme/v1/search", json={"query": "capital"}, headers=key)).json()
    answer = await world.client.get(f"/t/acme/v1/queries/{asked['query_id']}", headers=key)
    assert answer.status_code == 200
    assert answer.json()["query_id"] == asked["query_id"]


async def test_feedback_needs_a_query_of_this_tenant(world) -> None:
    key, other = world.tenant("acme"), world.tenant("other")
    asked = (await world.client.post("/t/acme/v1/search", json={"query": "capital"}, headers=key)).json()
    body = {"query_id": asked["query_id"], "rating": 1}
    assert (await world.client.post("/t/acme/v1/feedback", json=body, headers=key)).status_code == 204
    assert (await world.client.post("/t/other/v1/feedback", json=body, headers=other)).status_code == 404
    kept, _ = world.platform.store.list_feedback(world.platform.store.get_tenant("acme"))
    assert [(each.query_id, each.body) for each in kept] == [(asked["query_id"], {"rating": 1})]


async def test_stages_are_counted_by_tenant(world) -> None:
    key = world.tenant("acme")
    await world.client.post("/t/acme/v1/search", json={"query": "capital"}, headers=key)
    assert {tenant for tenant, _ in world.metrics.stages} == {"acme"}
    assert {"queue", "total", "audit"} <= {stage for _, stage in world.metrics.stages}
    assert ("acme", "/t/{tenant}/v1/search", 200) in world.metrics.requests
