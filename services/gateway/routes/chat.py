"""OpenAI's chat completions over the line: any OpenAI client asks the tenant's documents."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from services import deadline, query
from services.contracts import Question
from services.gateway import bodies, sse, vendors
from services.gateway.admission import admitted, counted
from services.gateway.auth import Access, may, platform_of
from services.gateway.chat import ChunkWriter, Completion
from services.gateway.conversation import Turn, standalone
from services.gateway.http import TENANT_ERRORS, accepts, answers, reply
from services.gateway.ports import Platform
from services.gateway.problems import openai_problem, translate
from services.gateway.routes.native import events, observe
from services.gateway.routes.openai import CHAT_MODELS, FATHOM
from services.gateway.variants import chosen
from services.gateway.vendors import ChatBody
from services.result import StreamEvent, answer_json
from tenants.errors import InvalidInput, NotFound

router = APIRouter(prefix="/t/{tenant}/v1", tags=["openai"])

Asker = Annotated[Access, Depends(may("query"))]
USER_CHARS = 256  # a longer name of the user is cut: OpenAI's own clients may send one
_DONE = StreamEvent("done")
_STREAM: dict[str, Any] = {"text/event-stream": {}}
_RESPONSES = answers(vendors.ChatReply, errors=TENANT_ERRORS, openai=True)


@router.post(
    "/chat/completions",
    responses=_RESPONSES | {200: {"model": vendors.ChatReply, "content": _STREAM, "description": "Success"}},
    openapi_extra=accepts(ChatBody),
)
async def chat(request: Request, access: Asker) -> Response:
    """Answer the last question of a conversation from the tenant's documents; `stream` sends OpenAI's chunks."""
    platform = platform_of(request)
    counted(platform, access, request)
    body = await bodies.read_body(request, ChatBody)
    question = to_question(body, platform)
    completion = Completion(
        model=body.model,
        created=int(time.time()),
        # A shared collection's document has no address under this tenant, and its id may be another one's here.
        base=""
        if access.scope.config.shared_collections
        else str(request.url.replace(query="")).rsplit("/chat/", 1)[0],
        stop=body.stops,
        usage=body.stream_options is not None and bool(body.stream_options.include_usage),
    )
    if body.stream:
        chunks = _chunks(events(question, platform, access), completion)
        return await sse.started(chunks, partial(_failed, access), _written)
    async with admitted(platform, access), deadline.enforced():
        scope = await chosen(platform, access, question)
        result = answer_json(await query.answer(question, scope, platform.steps, access.caller))
    observe(platform, scope, result)
    return reply(completion.whole(result))


def to_question(body: ChatBody, platform: Platform) -> Question:
    """The conversation as one validated question; errors name the chat's own fields."""
    models = (*CHAT_MODELS, *platform.generators)
    if body.model not in models:
        raise NotFound(f"there is no chat model of that name; the models are {', '.join(models)}")
    limit = min(platform.settings.limits.query_chars, bodies.QUERY_CHARS)
    text = standalone([Turn(each.role, each.text) for each in body.messages], limit)
    if not text:
        raise InvalidInput.field("/messages", "no user message has text; send a question with the role `user`")
    if len(text) > limit:
        raise InvalidInput.field("/messages", f"the last question has {len(text)} characters, {limit} are allowed")
    fields = ("top_k", "mode", "rerank", "depth", "filter", "collections", "session")
    given = {name: value for name in fields if (value := getattr(body, name)) is not None}
    asked = bodies.QueryBody(
        query=text,
        user=body.user[:USER_CHARS] if body.user else None,
        max_tokens=body.most_tokens,
        **given,
    )
    generator = None if body.model == FATHOM else body.model
    question = bodies.to_question(asked, platform.settings.limits)
    return replace(question, generator=generator, temperature=body.temperature)


async def _chunks(lines: AsyncGenerator[StreamEvent], completion: Completion) -> AsyncGenerator[StreamEvent]:
    writer = ChunkWriter(completion)
    async with aclosing(lines):
        async for event in lines:
            for chunk in writer.write(event):
                yield StreamEvent("chunk", chunk)
    yield _DONE


def _failed(access: Access, error: Exception) -> bytes:
    return _data(openai_problem(translate(error), access.request_id))


def _written(event: StreamEvent) -> bytes:
    return b"data: [DONE]\n\n" if event is _DONE else _data(event.data)


def _data(body: Any) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
