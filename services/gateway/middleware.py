"""The outermost frame of every request: id, deadline, body limit, headers, log line, metrics. ASGI, no FastAPI.

Nothing that a client sends passes this frame as an exception: what the application did not translate itself
becomes a 500 problem here, once, with its traceback in the log and none in the answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from services import deadline
from services.gateway.context import RequestContext, request_id
from services.gateway.ports import Metrics
from services.gateway.problems import respond, translate
from tenants.errors import TooLarge

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_access = logging.getLogger("fathom.access")


class Frame:
    """Wraps the application; `body_bytes` bounds what a request may carry, however it is sent."""

    def __init__(self, app: App, *, body_bytes: int, timeout_s: float, metrics: Metrics, names_answers: bool) -> None:
        self._names_answers = names_answers
        self._app = app
        self._body_bytes = body_bytes
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
        watch = _Answer(send, context)
        started = time.monotonic()
        try:
            await self._run(scope, _bounded(receive, self._body_bytes), watch, context)
        finally:
            self._finish(scope, context, watch.status, time.monotonic() - started)

    async def _run(self, scope: Scope, receive: Receive, watch: _Answer, context: RequestContext) -> None:
        try:
            refuse_declared(scope, self._body_bytes)
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            watch.status = watch.status or 499
            raise
        except Exception as error:  # noqa: BLE001 - the outermost frame
            answer = respond(translate(error), scope["path"], context)
            if watch.status == 0:
                await answer(scope, receive, watch)

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
        raise _too_large(limit_bytes)


def _bounded(receive: Receive, limit_bytes: int) -> Receive:
    seen = 0

    async def read() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit_bytes:
            # An HTTPException passes through FastAPI's and Starlette's own body readers untouched.
            raise HTTPException(413, _too_large(limit_bytes).detail)
        return message

    return read


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit_bytes} bytes; send less at once, or index it with a job")
