"""`Idempotency-Key` on POSTs that change state: the work runs once, its repeats get the stored answer.

Stripe's rules: a request that fails validation before any work is not remembered; one that did work is, with
its error if that is final; one that may be retried (409, 429, 503) is forgotten again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.responses import Response

from services.gateway.auth import platform_of
from services.gateway.context import RequestContext
from services.gateway.ports import Platform
from services.gateway.problems import respond
from tenants.errors import FathomError

REPLAYED = "Idempotent-Replayed"
Work = Callable[[], Awaitable[Response]]


async def once(request: Request, owner: str, work: Work, *, tenant: str | None = None) -> Response:
    """Run `work` unless this owner's key has an answer already; without the header just run it.

    `owner` is the tenant's uid, or `admin`; then `tenant` is the name that the request is about, if any.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return await work()
    platform = platform_of(request)
    digest = _digest(request, await request.body())
    stored = await asyncio.to_thread(platform.store.begin, owner, key, digest, tenant)
    if stored is not None:
        return Response(stored.body, stored.status, {**stored.headers, REPLAYED: "true"})
    return await _first(request, platform, owner, key, work)


async def _first(request: Request, platform: Platform, owner: str, key: str, work: Work) -> Response:
    try:
        answer = await work()
    except FathomError as error:
        if error.retryable:
            await asyncio.to_thread(platform.store.abandon, owner, key)
            raise
        answer = respond(error, request.url.path, RequestContext.of(request.scope))
    except BaseException:
        # A fault or a cancelled client: nothing is known to be done, so the key must not stay locked.
        await asyncio.shield(asyncio.to_thread(platform.store.abandon, owner, key))
        raise
    kept = {"content-type": answer.headers.get("content-type", "application/json")}
    await asyncio.shield(
        asyncio.to_thread(platform.store.finish, owner, key, answer.status_code, kept, bytes(answer.body))
    )
    return answer


def _digest(request: Request, body: bytes) -> str:
    head = f"{request.method}\0{request.url.path}\0{request.url.query}\0".encode()
    return hashlib.sha256(head + body).hexdigest()
