"""The line with fakes around it: order of events, degradations as values, the audit before the reply."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from services.contracts import Caller, Comparison, Junction, Question
from services.evidence.extract import ExtractiveAnswerer
from services.query import Steps, answer, search, stream
from services.reranking.first_stage import FirstStage
from services.result import answer_json, search_json
from services.retrieval.fusion import blend
from tenants.errors import IntegrityError, Unavailable
from tests import fakes

PASSAGES = [
    fakes.passage(1, "The tower was finished in 1889.", "tower", title="Tower"),
    fakes.passage(2, "The tower is 330 metres tall.", "tower"),
    fakes.passage(3, "Bananas are yellow.", "fruit"),
]
CALLER = Caller("request-1", "key-1")
NOW_MS = 1_700_000_000_000


def steps(**changes: Any) -> Steps:
    retriever = changes.pop("retriever", fakes.FakeRetriever(PASSAGES))
    given = {"reranker": FirstStage(), "answerer": fakes.FakeAnswerer(), "audit": fakes.MemoryAuditLog()}
    return Steps(retriever=retriever, now_ms=lambda: NOW_MS, **(given | changes))


async def test_a_search_has_every_field_of_the_contract() -> None:
    body = search_json(await search(Question("When was the tower finished?"), fakes.scope(), steps(), CALLER))
    assert list(body) == [
        "query_id",
        "index_version",
        "results",
        "rerank",
        "degraded",
        "variant",
        "timings_ms",
    ]
    first = body["results"][0]
    assert first["rank"] == 1
    assert first["chunk_id"] == PASSAGES[0].chunk_id
    assert set(first["scores"]) == {"dense", "sparse", "fused", "rerank", "probability"}
    assert first["ranks"] == {"dense": 1, "sparse": 1, "fused": 1}
    assert [hit["rank"] for hit in body["results"]] == [1, 2, 3]
    assert body["results"][2]["ranks"]["sparse"] is None
    assert {"embed", "search", "rerank", "audit", "total"} <= set(body["timings_ms"])
    assert body["rerank"]["decision"] == "unavailable"
    assert body["rerank"]["pairs"] == 0
    assert body["rerank"]["candidates"] == 3
    assert json.loads(json.dumps(body, allow_nan=False)) == body


async def test_an_answer_is_cited_and_adds_the_answers_fields() -> None:
    body = answer_json(await answer(Question("When was the tower finished?"), fakes.scope(), steps(), CALLER))
    assert body["answer"] == "The tower was finished in 1889. [1]"
    assert body["citations"][0]["quote"] == "The tower was finished in 1889."
    assert body["grounded"] == "full"
    assert body["usage"] == {"prompt_tokens": 0, "completion_tokens": 0}
    assert body["conflicts"] == []


async def test_an_empty_index_answers_with_nothing() -> None:
    nothing = steps(retriever=fakes.FakeRetriever(), answerer=ExtractiveAnswerer(fakes.FakeRetriever()))
    found = await search(Question("x"), fakes.scope(), nothing, CALLER)
    assert found.results == ()
    said = await answer(Question("x"), fakes.scope(), nothing, CALLER)
    assert said.draft.grounded == "abstained"
    assert said.search.results == ()


async def test_grouping_by_document_shows_each_once() -> None:
    found = await search(Question("tower", group_by="document"), fakes.scope(), steps(), CALLER)
    assert [hit.passage.document_id for hit in found.results] == ["tower", "fruit"]


async def test_top_k_and_modes_are_kept() -> None:
    found = await search(Question("tower", top_k=1, mode="dense"), fakes.scope(), steps(), CALLER)
    assert len(found.results) == 1
    assert found.results[0].scores["fused"] == 1.0


async def test_explain_adds_why_and_only_then() -> None:
    plain = search_json(await search(Question("tower"), fakes.scope(), steps(), CALLER))
    told = search_json(await search(Question("tower", explain=True, top_k=1), fakes.scope(), steps(), CALLER))
    assert "explain" not in plain
    assert "why" not in plain["results"][0]
    assert 0 < told["explain"]["fusion"]["weight"] < 1
    assert set(told["explain"]["left_out"].values()) == {"rank"}
    assert told["results"][0]["why"]["legs"] == ["dense", "sparse"]


@pytest.mark.parametrize(
    ("rerank", "policy", "decision", "degraded"),
    [
        ("auto", "auto", "unavailable", ()),
        ("always", "auto", "unavailable", ("reranker_unavailable",)),
        ("auto", "always", "unavailable", ("reranker_unavailable",)),
        ("never", "always", "skipped", ()),
        ("auto", "never", "skipped", ()),
        ("always", "never", "unavailable", ("reranker_unavailable",)),
    ],
)
async def test_what_a_platform_without_a_cross_encoder_says(
    rerank: Any, policy: str, decision: str, degraded: tuple[str, ...]
) -> None:
    scope = fakes.scope(rerank={"policy": policy})
    found = await search(Question("tower", rerank=rerank), scope, steps(), CALLER)
    assert (found.ranked.decision, found.degraded) == (decision, degraded)
    assert found.ranked.reason.endswith(".")


async def test_a_missing_leg_is_a_degradation_unless_the_mode_does_without_it() -> None:
    one_leg = steps(retriever=fakes.FakeRetriever(PASSAGES, legs=("dense",)))
    hybrid = await search(Question("tower"), fakes.scope(), one_leg, CALLER)
    dense = await search(Question("tower", mode="dense"), fakes.scope(), one_leg, CALLER)
    assert (hybrid.degraded, dense.degraded) == (("partial_candidates",), ())


async def test_nothing_leaves_before_its_record_is_durable() -> None:
    log = fakes.MemoryAuditLog(gate=asyncio.Event())
    task = asyncio.create_task(answer(Question("tower"), fakes.scope(), steps(audit=log), CALLER))
    events = stream(Question("tower"), fakes.scope(), steps(audit=log), CALLER)
    first = asyncio.create_task(anext(events))
    done, _ = await asyncio.wait({task, first}, timeout=0.05)
    assert not done
    log.gate.set()
    assert (await task).draft.citations
    assert (await first).name == "evidence"
    await events.aclose()


async def test_an_answer_without_a_record_is_withheld() -> None:
    with pytest.raises(Unavailable):
        await answer(Question("tower"), fakes.scope(), steps(audit=fakes.MemoryAuditLog(broken=True)), CALLER)


async def test_a_dead_retriever_is_an_error_and_leaves_no_record() -> None:
    given = steps(retriever=fakes.FakeRetriever(broken=True))
    with pytest.raises(Unavailable):
        await search(Question("tower"), fakes.scope(), given, CALLER)
    assert given.audit.records == []


async def test_a_stream_tells_evidence_tokens_citations_then_the_whole() -> None:
    given = steps()
    events = [event async for event in stream(Question("tower finished"), fakes.scope(), given, CALLER)]
    assert [event.name for event in events] == ["evidence", "token", "citation", "answer"]
    assert events[1].data["text"] == events[3].data["answer"]
    assert events[2].data == events[3].data["citations"][0]
    assert [record.facts["state"] for record in given.audit.records] == ["streaming", "complete"]
    assert len({record.query_id for record in given.audit.records}) == 1


async def test_an_answerer_that_writes_nothing_is_found_out() -> None:
    with pytest.raises(IntegrityError):
        await answer(Question("tower"), fakes.scope(), steps(answerer=fakes.FakeAnswerer(silent=True)), CALLER)


async def test_query_ids_sort_by_time() -> None:
    log = fakes.MemoryAuditLog()
    for at_ms in (NOW_MS, NOW_MS + 1):
        given = Steps(fakes.FakeRetriever(PASSAGES), FirstStage(), fakes.FakeAnswerer(), log, lambda at=at_ms: at)
        await search(Question("tower"), fakes.scope(), given, CALLER)
    ids = [record.query_id for record in log.records]
    assert ids == sorted(ids)
    assert all(one.startswith("q_") and len(one) == 34 for one in ids)


async def test_the_record_says_why_each_candidate_was_shown_and_replays_the_order() -> None:
    given = steps()
    tree = Junction("and", (Comparison("metadata.site", "eq", "private-value"),))
    question = Question("When was the tower finished?", top_k=1, filter=tree, user="someone@example.org")
    said = await answer(question, fakes.scope(), given, CALLER)
    (record,) = given.audit.records
    facts = record.facts
    assert facts["request_id"] == "request-1"
    assert facts["key_id"] == "key-1"
    assert facts["candidates"]["reason"] == ["cited", "rank", "rank"]
    assert facts["evidence"] == [said.search.results[0].passage.chunk_id]
    assert record.sources == ("tower",)
    assert {text.slot for text in record.texts} == {"query", "user", "answer", "quote.1"}
    stored = json.dumps(facts)
    assert all(secret not in stored for secret in ("tower finished", "private-value", "someone@", "1889"))
    columns = facts["candidates"]
    found = await given.retriever.retrieve(fakes.scope(), question)
    row = {one.chunk_id: place for place, one in enumerate(found.passages)}
    order = [row[one] for one in columns["chunk_id"]]
    again = blend(found, facts["fusion"]["weight"])
    assert np.array_equal(np.array(columns["fused"], dtype=np.float32), again[order])
    assert order == np.lexsort((-found.dense, -again)).tolist()
    assert np.array_equal(np.array(columns["dense"], dtype=np.float32), found.dense[order])
