"""Asking: search, query (whole or as a stream), the audit record of a query, feedback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from services import deadline, query
from services.contracts import Question
from services.gateway import bodies, replies, sse
from services.gateway.admission import admitted, counted
from services.gateway.auth import Access, may, platform_of
from services.gateway.http import JSON, accepts, answers, failures, repeatable, reply
from services.gateway.idempotency import once
from services.gateway.ports import Platform
from services.gateway.problems import problem, translate
from services.gateway.variants import chosen
from services.result import StreamEvent, answer_json, search_json
from tenants.errors import InvalidInput, NotFound
from tenants.ids import query_id as checked_query_id
from tenants.scope import TenantScope

router = APIRouter(prefix="/t/{tenant}/v1", tags=["ask"])

Asker = Annotated[Access, Depends(may("query"))]
Grouping = Annotated[Literal["document"] | None, Query()]
_STREAM: dict[str, Any] = {"text/event-stream": {}}  # a schema here would be one of a single event


@router.post("/search", responses=answers(replies.SearchResult), openapi_extra=accepts(bodies.SearchBody))
async def search(request: Request, access: Asker, group_by: Grouping = None) -> Response:
    """Rank the tenant's passages for a question."""
    platform = platform_of(request)
    counted(platform, access, request)
    body = await bodies.read_body(request, bodies.SearchBody)
    question = _question(body, group_by, platform)
    async with admitted(platform, access), deadline.enforced():
        scope = await chosen(platform, access, question)
        result = search_json(await query.search(question, scope, platform.steps, access.caller))
    observe(platform, scope, result)
    return reply(result)


@router.post(
    "/query",
    responses=answers(replies.Answer) | {200: {"model": replies.Answer, "content": _STREAM, "description": "Success"}},
    openapi_extra=accepts(bodies.QueryBody),
)
async def ask(request: Request, access: Asker, group_by: Grouping = None) -> Response:
    """Answer a question from the tenant's documents, with citations; `stream` sends server-sent events."""
    platform = platform_of(request)
    counted(platform, access, request)
    body = await bodies.read_body(request, bodies.QueryBody)
    question = _question(body, group_by, platform)
    if body.stream:
        return await sse.started(events(question, platform, access), partial(_failed, access))
    async with admitted(platform, access), deadline.enforced():
        scope = await chosen(platform, access, question)
        result = answer_json(await query.answer(question, scope, platform.steps, access.caller))
    observe(platform, scope, result)
    return reply(result)


@router.get("/queries/{query_id}", responses=answers(replies.AuditReply))
async def audit_record(request: Request, access: Asker, query_id: str) -> Response:
    """The audit record of one of this tenant's queries."""
    counted(platform_of(request), access, request)
    audit = platform_of(request).audit
    return reply(await asyncio.to_thread(audit.read, access.scope.uid, _known_query(query_id)))


@router.post(
    "/feedback",
    status_code=204,
    responses={204: {"description": "Kept"}, **failures((400, 401, 403, 404, 409, 413, 422, 429, 500, 503))},
    openapi_extra=accepts(bodies.FeedbackBody) | repeatable(),
)
async def feedback(request: Request, access: Asker) -> Response:
    """Judge an answer: a rating, or chunks that were clicked, relevant or irrelevant."""
    platform = platform_of(request)
    counted(platform, access, request)
    body = await bodies.read_body(request, bodies.FeedbackBody)

    async def keep() -> Response:
        await asyncio.to_thread(platform.audit.read, access.scope.uid, _known_query(body.query_id))
        judgement = body.model_dump(exclude_none=True, exclude={"query_id"})
        await asyncio.to_thread(platform.store.add_feedback, access.scope, body.query_id, judgement)
        return Response(status_code=204, media_type=JSON)

    return await once(request, access.scope.uid, keep, body=body.model_dump_json)


def _question(body: bodies.SearchBody, group_by: Literal["document"] | None, platform: Platform) -> Question:
    grouped = body.model_copy(update={"group_by": group_by}) if group_by else body
    return bodies.to_question(grouped, platform.settings.limits)


def _known_query(raw: str) -> str:
    try:
        return checked_query_id(raw)
    except InvalidInput:
        raise NotFound("there is no such query") from None


async def events(question: Question, platform: Platform, access: Access) -> AsyncGenerator[StreamEvent]:
    """One whole answer within one deadline; its place in the queue is free once the last event is made."""
    async with admitted(platform, access), deadline.enforced():
        scope = await chosen(platform, access, question)
        async with aclosing(query.stream(question, scope, platform.steps, access.caller)) as line:
            async for event in line:
                if event.name == "answer":
                    observe(platform, scope, event.data)
                yield event


def _failed(access: Access, error: Exception) -> bytes:
    return sse.event("error", problem(translate(error), access.request_id))


def observe(platform: Platform, scope: TenantScope, result: Any) -> None:
    """Stage times and the reranker's decision into the metrics."""
    for stage, spent_ms in result["timings_ms"].items():
        platform.metrics.stage(scope.tenant, stage, spent_ms / 1000)
    platform.metrics.reranked(scope.tenant, result["rerank"]["decision"])
