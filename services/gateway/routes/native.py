"""Asking: search, query (whole or as a stream), the audit record of a query, feedback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from services import deadline, query
from services.contracts import Question
from services.gateway import bodies, replies, sse
from services.gateway.admission import admitted, counted
from services.gateway.auth import Access, may, platform_of
from services.gateway.http import JSON, accepts, answers, failures, repeatable, reply
from services.gateway.idempotency import once
from services.gateway.ports import Platform
from services.gateway.problems import problem, translate
from services.result import StreamEvent, answer_json, search_json
from tenants.errors import InvalidInput, NotFound
from tenants.ids import query_id as checked_query_id
from tenants.scope import TenantScope

router = APIRouter(prefix="/t/{tenant}/v1", tags=["ask"])

Asker = Annotated[Access, Depends(may("query"))]
Grouping = Annotated[Literal["document"] | None, Query()]
_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


@router.post("/search", responses=answers(replies.SearchResult), openapi_extra=accepts(bodies.SearchBody))
async def search(request: Request, access: Asker, group_by: Grouping = None) -> Response:
    """Rank the tenant's passages for a question."""
    platform = platform_of(request)
    counted(platform, access, request)
    body = await bodies.read_body(request, bodies.SearchBody)
    question = _question(body, group_by, platform)
    async with admitted(platform, access), deadline.enforced():
        scope = await platform.catalogue.pinned(access.scope)
        result = search_json(await query.search(question, scope, platform.steps, access.caller))
    _observe(platform, scope, result)
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
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admitted(platform, access))
        scope = await platform.catalogue.pinned(access.scope)
        if body.stream:
            return await _stream(question, scope, platform, access, stack)
        async with deadline.enforced():
            result = answer_json(await query.answer(question, scope, platform.steps, access.caller))
    _observe(platform, scope, result)
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


async def _stream(
    question: Question, scope: TenantScope, platform: Platform, access: Access, stack: AsyncExitStack
) -> Response:
    """The first event is awaited here, so that what fails before it is an ordinary problem with its status."""
    events = query.stream(question, scope, platform.steps, access.caller)
    async with deadline.enforced():
        first = await anext(events)
    held = stack.pop_all()
    body = sse.with_pings(_events(first, events, held, platform, access))
    return StreamingResponse(body, media_type="text/event-stream", headers=sse.HEADERS)


async def _events(
    first: StreamEvent, rest: AsyncIterator[StreamEvent], held: AsyncExitStack, platform: Platform, access: Access
) -> AsyncIterator[bytes]:
    """Every event as bytes; a failure becomes an `error` event. The place in the queue is given back at the end."""
    async with held:
        yield sse.event(first.name, first.data)
        try:
            async with deadline.enforced():
                async for event in rest:
                    if event.name == "answer":
                        _observe(platform, access.scope, event.data)
                    yield sse.event(event.name, event.data)
        except Exception as error:  # noqa: BLE001 - the outermost frame of a stream, whose status has left already
            yield sse.event("error", problem(translate(error), access.request_id))


def _observe(platform: Platform, scope: TenantScope, result: Any) -> None:
    for stage, spent_ms in result["timings_ms"].items():
        platform.metrics.stage(scope.tenant, stage, spent_ms / 1000)
