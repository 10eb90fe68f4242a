"""`Idempotency-Key` on POSTs that change state: the work runs once, its repeats get the stored answer.

Stripe's rules: a request that is refused before any work is not remembered; one that did work is, with its error
if that is final. Where nobody knows what was done (a fault, a lost connection to a worker, a client that left) the
key stays locked until its lock expires, and its repeats are told that it is at work: never done twice at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import Response

from services.gateway.auth import platform_of
from services.gateway.context import RequestContext
from services.gateway.ports import Platform
from services.gateway.problems import respond
from tenants.errors import FathomError, InFlight, InvalidInput, LeaseLost, Overloaded, QuotaExceeded

REPLAYED = "Idempotent-Replayed"
BEFORE_ANY_EFFECT = (QuotaExceeded, Overloaded, InvalidInput, InFlight, LeaseLost)
Work = Callable[[], Awaitable[Response]]
Material = Callable[[], str]


async def once(
    request: Request, owner: str, work: Work, *, body: Material = str, tenant: str | None = None
) -> Response:
    """Run `work` unless this owner's key has an answer already; without the header just run it.

    `owner` is the tenant's uid, or `admin`; then `tenant` is the name that the request is about, if any. `body`
    writes down what was sent, so that the same key with another body is noticed; called in a thread.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return await work()
    platform = platform_of(request)
    digest = await asyncio.to_thread(_digest, request, body)
    stored = await asyncio.to_thread(platform.store.begin, owner, key, digest, tenant)
    if stored is not None:
        return Response(stored.body, stored.status, {**stored.headers, REPLAYED: "true"})
    return await _first(request, platform, owner, key, work)


async def _first(request: Request, platform: Platform, owner: str, key: str, work: Work) -> Response:
    try:
        answer = await work()
    except BEFORE_ANY_EFFECT:
        await asyncio.shield(asyncio.to_thread(platform.store.abandon, owner, key))
        raise
    except FathomError as error:
        if error.retryable or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        answer = respond(error, request.url.path, RequestContext.of(request.scope))
    kept = {"content-type": answer.headers.get("content-type", "application/json")}
    await asyncio.shield(
        asyncio.to_thread(platform.store.finish, owner, key, answer.status_code, kept, bytes(answer.body))
    )
    return answer


def _digest(request: Request, body: Material) -> str:
    text = f"{request.method}\0{request.url.path}\0{request.url.query}\0{body()}"
    return hashlib.sha256(text.encode()).hexdigest()
