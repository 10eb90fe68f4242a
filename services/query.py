"""THE LINE: what happens to one question, from top to bottom. The reader never goes back up.

    retrieve → fuse → rerank → select evidence → answer → audit → reply

The gateway runs it with Serve handles or in-process objects, evaluation with in-process objects, tests with
fakes: one code. Nothing leaves before its audit record is durable: `search` and `answer` append once; a stream
appends before its first event (state `streaming`) and again before the `answer` event (state `complete`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from services.audit.record import explained, query_record
from services.contracts import Answerer, AnswerEvent, AuditLog, Caller, Draft, Evidence, Question, Reranker, Retriever
from services.evidence.selection import page, select
from services.experiments.interleaved import interleaved
from services.experiments.rivals import NoRivals, Rivals
from services.reranking.shadow import NoShadow, Shadow
from services.reranking.telling import shown_of
from services.result import (
    Answer,
    Prepared,
    SearchResult,
    StreamEvent,
    answer_json,
    citation_json,
    degradations,
    hits,
    search_json,
)
from services.retrieval.fusion import fuse, profile_of
from services.timing import Stopwatch
from tenants.errors import IntegrityError
from tenants.ids import new_query_id
from tenants.scope import TenantScope


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Steps:
    """What the line drives. `now_ms` is Unix time, for query ids and the audit; `shadow` and `rivals` are told of
    every question after its reply.
    """

    retriever: Retriever
    reranker: Reranker
    answerer: Answerer
    audit: AuditLog
    now_ms: Callable[[], int] = _wall_ms
    shadow: Shadow = field(default_factory=NoShadow)
    rivals: Rivals = field(default_factory=NoRivals)


async def answer(question: Question, scope: TenantScope, steps: Steps, caller: Caller) -> Answer:
    """A cited answer, or an honest abstention. Raises what retrieval and the audit raise; see `Steps`."""
    prepared = await prepare(question, scope, steps, caller)
    with prepared.watch.lap("answer"):
        draft = await _last_draft(steps.answerer.answer(scope, question, prepared.evidence, prepared.candidates))
    return await conclude(prepared, draft, steps)


async def search(question: Question, scope: TenantScope, steps: Steps, caller: Caller) -> SearchResult:
    """The ranked passages alone: `top_k` of them, one a document when the question groups by document."""
    prepared = await prepare(question, scope, steps, caller, choose=page)
    await _record(prepared, None, "complete", steps)
    return result_of(prepared)


async def prepare(
    question: Question,
    scope: TenantScope,
    steps: Steps,
    caller: Caller,
    choose: Callable[[Question, TenantScope, Any, Any], Evidence] = select,
) -> Prepared:
    """Everything before the answerer: the evidence and how it was found. An empty index gives no evidence."""
    at_ms, watch = steps.now_ms(), Stopwatch()
    candidates = await steps.retriever.retrieve(scope, question)
    watch.add(candidates.timings_ms)
    with watch.lap("fuse"):
        fusion = fuse(candidates, question.mode, profile_of(scope))
    with watch.lap("rerank"):
        if scope.rival is not None and scope.variant.kind == "interleaving":
            ranked = await interleaved(scope, scope.rival, question, candidates, fusion, steps.reranker)
        else:
            ranked = await steps.reranker.rerank(scope, question, candidates, fusion)
    with watch.lap("evidence"):
        evidence = choose(question, scope, candidates, ranked)
    query_id = new_query_id(at_ms)
    return Prepared(query_id, at_ms, question, scope, caller, candidates, fusion, ranked, evidence, watch)


async def conclude(prepared: Prepared, draft: Draft, steps: Steps) -> Answer:
    """Make the record durable, then let the answer go."""
    await _record(prepared, draft, "complete", steps)
    return Answer(result_of(prepared, draft), draft)


async def stream(question: Question, scope: TenantScope, steps: Steps, caller: Caller) -> AsyncGenerator[StreamEvent]:
    """`evidence`, then `token` and `citation` events in reading order, last the whole `answer`."""
    prepared = await prepare(question, scope, steps, caller)
    await _record(prepared, None, "streaming", steps)
    yield StreamEvent("evidence", search_json(result_of(prepared)))
    draft: Draft | None = None
    # Closed with the stream: a generator must not go on writing for a caller who has left.
    async with aclosing(steps.answerer.answer(scope, question, prepared.evidence, prepared.candidates)) as events:
        async for event in events:
            if event.kind == "token":
                yield StreamEvent("token", {"text": event.text})
            elif event.kind == "citation" and event.citation is not None:
                yield StreamEvent("citation", citation_json(event.citation))
            else:
                draft = event.draft
    yield StreamEvent("answer", answer_json(await conclude(prepared, _written(draft), steps)))


def result_of(prepared: Prepared, draft: Draft | None = None) -> SearchResult:
    """The reply's search part; `total` is the time until now, the audit's included."""
    question, scope = prepared.question, prepared.scope
    explain = None
    if question.explain:
        explain = explained(prepared, draft) | {
            "left_out": dict(prepared.evidence.dropped),
            "abstain_score": draft.abstain_score if draft else None,
        }
    return SearchResult(
        query_id=prepared.query_id,
        index_version=scope.index_version,
        results=hits(prepared),
        ranked=prepared.ranked,
        candidates=len(prepared.candidates.passages),
        degraded=degradations(prepared, draft),
        timings_ms=prepared.watch.read(),
        variant=scope.variant.name,
        explain=explain,
    )


async def _record(prepared: Prepared, draft: Draft | None, state: str, steps: Steps) -> None:
    record = query_record(prepared, draft, state, degradations(prepared, draft))
    with prepared.watch.lap("audit"):
        await steps.audit.append(prepared.scope, record)
    if state != "complete":
        return
    steps.rivals.offer(prepared)
    if prepared.ranked.interleaved is not None:
        return  # nobody promised anything of a list of two rankings
    shown = shown_of(prepared.query_id, prepared.question.text, prepared.candidates, prepared.fusion, prepared.ranked)
    if shown is not None:
        steps.shadow.offer(prepared.scope, shown)


async def _last_draft(events: AsyncGenerator[AnswerEvent]) -> Draft:
    draft: Draft | None = None
    async with aclosing(events):
        async for event in events:
            draft = event.draft or draft
    return _written(draft)


def _written(draft: Draft | None) -> Draft:
    if draft is None:
        raise IntegrityError("the answerer ended without an answer; report this with the request id")
    return draft
