"""Server-sent events: how one is written, and a stream that pings while nothing comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

PING = b": ping\n\n"
PING_S = 10.0
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """`event:` and one `data:` line; JSON holds no raw newline, so one line is always enough."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def data(value: Mapping[str, Any] | str) -> bytes:
    """A nameless event, as OpenAI's streams use them; a string goes out as it is (`[DONE]`)."""
    payload = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
    return b"data: " + payload + b"\n\n"


async def with_pings(events: AsyncIterator[bytes], every_s: float = PING_S) -> AsyncIterator[bytes]:
    """`events`, and a comment whenever `every_s` pass without one. Closing this closes `events` at once."""
    pending: asyncio.Task[bytes] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({pending}, timeout=every_s)
            if not done:
                yield PING
                continue
            finished, pending = pending, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if pending is not None:
            pending.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await pending
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
