"""Server-sent events: how one is written, a producer that no slow reader holds up, and pings while nothing comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from services.result import StreamEvent
from tenants.errors import DeadlineExceeded, IntegrityError

PING = b": ping\n\n"
PING_S = 10.0
STALL_S = 30.0  # a client that takes nothing for so long is let go
QUEUED = 256  # events that wait for a slow reader; a whole extractive answer has fewer
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """`event:` and one `data:` line; JSON holds no raw newline, so one line is always enough."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


Write = Callable[[StreamEvent], bytes]


def named(found: StreamEvent) -> bytes:
    """An event under its own name: how our own routes stream."""
    return event(found.name, found.data)


class Relay:
    """Runs a stream of events to its end in one task, whoever reads them and however slowly.

    What the stream holds (a place in a queue, a deadline) begins and ends in that task. When `QUEUED` events wait
    the producer waits too, until its own deadline.
    """

    def __init__(self, events: AsyncGenerator[StreamEvent], queued: int = QUEUED) -> None:
        self._waiting: asyncio.Queue[StreamEvent | Exception | None] = asyncio.Queue(queued)
        self._closed = False
        self._task = asyncio.create_task(self._produce(events))

    async def first(self) -> StreamEvent | None:
        """The first event; raises what the stream raised before it."""
        found = await self._waiting.get()
        if isinstance(found, Exception):
            raise found
        return found

    async def frames(
        self, failed: Callable[[Exception], bytes], ping_s: float = PING_S, write: Write = named
    ) -> AsyncIterator[bytes]:
        """The further events as bytes, `PING` whenever `ping_s` pass without one; `failed` writes an error."""
        while True:
            try:
                async with asyncio.timeout(ping_s):
                    found = await self._waiting.get()
            except TimeoutError:
                yield PING
                continue
            if found is None:
                return
            if isinstance(found, Exception):
                yield failed(found)
                return
            yield write(found)

    def close(self) -> None:
        """Nobody reads any more: stop the stream and free what it holds."""
        self._closed = True
        self._task.cancel()

    async def _produce(self, events: AsyncGenerator[StreamEvent]) -> None:
        end: Exception | None = None
        try:
            async with aclosing(events):
                async for found in events:
                    await self._waiting.put(found)
        except asyncio.CancelledError:
            if self._closed:
                raise
            # The stream's own deadline, which rang while a slow reader kept this task waiting.
            end = DeadlineExceeded("the request took longer than it may; try again, or ask for less", retry_after_s=1)
        except Exception as error:  # noqa: BLE001 - the outermost frame of this task; the reader translates it
            end = error
        await self._waiting.put(end)


class EventStream(StreamingResponse):
    """A relay's events as an answer. A client that leaves, or takes nothing for `stall_s`, ends the relay."""

    def __init__(
        self,
        first: StreamEvent,
        relay: Relay,
        failed: Callable[[Exception], bytes],
        stall_s: float = STALL_S,
        write: Write = named,
    ) -> None:
        frames = _after(write(first), relay.frames(failed, write=write))
        super().__init__(frames, media_type="text/event-stream", headers=HEADERS)
        self._relay = relay
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; gone or stalled clients are no error of ours."""

        async def bounded(message: Message) -> None:
            async with asyncio.timeout(self._stall_s):
                await send(message)

        try:
            await super().__call__(scope, receive, bounded)
        except (TimeoutError, ClientDisconnect):
            return  # the server closes the connection of an answer that does not end
        finally:
            self._relay.close()


async def started(
    events: AsyncGenerator[StreamEvent], failed: Callable[[Exception], bytes], write: Write = named
) -> EventStream:
    """The answer of a stream whose first event is awaited here: what fails before it is raised, with its own status."""
    relay = Relay(events)
    try:
        first = await relay.first()
    except BaseException:
        relay.close()
        raise
    if first is None:
        raise IntegrityError("the answer ended before it began; report this with the request id")
    return EventStream(first, relay, failed, write=write)


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for frame in rest:
        yield frame
