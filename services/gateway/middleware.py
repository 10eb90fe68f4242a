"""The outermost frame of every request: id, deadline, body limit, headers, log line, metrics. ASGI, no FastAPI.

Nothing that a client sends passes this frame as an exception: what the application did not translate itself
becomes a 500 problem here, once, with its traceback in the log and none in the answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from services import deadline
from services.gateway.bodies import too_large
from services.gateway.context import RequestContext, request_id
from services.gateway.ports import Metrics
from services.gateway.problems import respond, translate
from tenants.errors import Overloaded

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODIES = 4  # of the largest size that this process holds at once, all requests together
BODIES_OF_A_TENANT = 2

_access = logging.getLogger("fathom.access")


class Frame:
    """Wraps the application; `body_bytes` bounds what a request may carry, however it is sent."""

    def __init__(self, app: App, *, body_bytes: int, timeout_s: float, metrics: Metrics, names_answers: bool) -> None:
        self._names_answers = names_answers
        self._app = app
        self._body_bytes = body_bytes
        self._buffers = Buffers(body_bytes * BODIES, body_bytes * BODIES_OF_A_TENANT)
        self._timeout_s = timeout_s
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request in, one answer out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(request_id(header(scope, b"x-request-id")))
        context.attach(scope)
        deadline.start(self._timeout_s)
        if self._names_answers:
            context.headers["x-request-id"] = context.request_id
        watch, share = _Answer(send, context), _Share(self._buffers, context)
        started = time.monotonic()
        try:
            await self._run(scope, self._bounded(receive, share), watch, context)
        finally:
            share.give_back()
            self._finish(scope, context, watch.status, time.monotonic() - started)

    async def _run(self, scope: Scope, receive: Receive, watch: _Answer, context: RequestContext) -> None:
        try:
            refuse_declared(scope, self._body_bytes)
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            watch.status = watch.status or 499
            raise
        except ClientDisconnect:
            return  # it left while it sent: nobody is there to read an answer
        except Exception as error:  # noqa: BLE001 - the outermost frame
            answer = respond(translate(error), scope["path"], context)
            if watch.status == 0:
                await answer(scope, receive, watch)

    def _bounded(self, receive: Receive, share: _Share) -> Receive:
        async def read() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            if share.held + size > self._body_bytes:
                # An HTTPException passes through FastAPI's and Starlette's own body readers untouched.
                raise HTTPException(413, too_large(self._body_bytes).detail)
            share.take(size)
            return message

        return read

    def _finish(self, scope: Scope, context: RequestContext, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.request(context.tenant, route, status, seconds)
        _access.info(
            "request",
            extra={
                "request_id": context.request_id,
                "tenant": context.tenant,
                "key_id": context.key_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 2),
            },
        )


class Buffers:
    """How many bytes of bodies this process holds, for all requests at work and for one tenant's."""

    def __init__(self, limit_bytes: int, tenant_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._tenant_bytes = tenant_bytes
        self._held: Counter[str] = Counter()

    def take(self, tenant: str, size: int) -> None:
        """Count `size` more bytes; raises `Overloaded` where they do not fit."""
        if self._held[tenant] + size > self._tenant_bytes or self._held.total() + size > self._limit_bytes:
            raise Overloaded("too many bytes of requests are at work here; retry later", retry_after_s=1)
        self._held[tenant] += size

    def give_back(self, tenant: str, size: int) -> None:
        """The request that held them has ended."""
        self._held[tenant] -= size
        if self._held[tenant] <= 0:
            del self._held[tenant]


class _Share:
    """What one request holds of the buffers; its tenant is known before its body is read."""

    def __init__(self, buffers: Buffers, context: RequestContext) -> None:
        self._buffers = buffers
        self._context = context
        self._tenant = ""
        self.held = 0

    def take(self, size: int) -> None:
        if size:
            self._tenant = self._tenant or self._context.tenant
            self._buffers.take(self._tenant, size)
            self.held += size

    def give_back(self) -> None:
        if self.held:
            self._buffers.give_back(self._tenant, self.held)


class _Answer:
    """Adds the request's headers to the answer and remembers its status (0 = none left yet)."""

    def __init__(self, send: Send, context: RequestContext) -> None:
        self._send = send
        self._context = context
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            added = [(key.lower().encode(), value.encode("latin-1")) for key, value in self._context.headers.items()]
            headers = [*message.get("headers", ()), *added]
            message = {**message, "headers": headers}
        await self._send(message)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that lower-case name."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def refuse_declared(scope: Scope, limit_bytes: int) -> None:
    """Raise `TooLarge` at once when Content-Length already says so; a wrong or missing one is met while reading."""
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared[:20]) > limit_bytes:
        raise too_large(limit_bytes)
