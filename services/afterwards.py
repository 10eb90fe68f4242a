"""Work that is done after a reply, out of every asker's way: at most ROOM items wait, one is at work at a time.

For shadows. `put` returns at once; a newcomer that finds no room is dropped and counted. `quiet` waits until nobody
else wants what the work would take.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

from tenants.errors import FathomError

ROOM = 64
IDLE_POLL_S = 0.05
PATIENCE_S = 60.0  # what stays busy for so long: the work is dropped
Item = TypeVar("Item")
_log = logging.getLogger("fathom.shadow")


class Afterwards(Generic[Item]):
    """On the event loop of the process that serves. `work` gives False for what it dropped; `what` names it."""

    def __init__(self, work: Callable[[Item], Awaitable[bool]], what: str) -> None:
        self._work = work
        self._what = what
        self._waiting: asyncio.Queue[Item] = asyncio.Queue(ROOM)
        self._worker: asyncio.Task[None] | None = None
        self.dropped = 0

    def put(self, item: Item) -> None:
        """Called after the reply."""
        try:
            self._waiting.put_nowait(item)
        except asyncio.QueueFull:
            self.dropped += 1
            return
        if self._worker is None or self._worker.done():
            # In a context of its own: the question's deadline is not the shadow's.
            self._worker = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def settle(self) -> None:
        """Wait until nothing is left to do; for tests and a tidy end."""
        await self._waiting.join()

    async def close(self) -> None:
        """Give up what waits."""
        if self._worker is not None:
            self._worker.cancel()

    async def _run(self) -> None:
        while not self._waiting.empty():
            item = self._waiting.get_nowait()
            try:
                if not await self._work(item):
                    self.dropped += 1
            except FathomError as error:
                _log.info("%s was given up: %s", self._what, error.detail)
            finally:
                self._waiting.task_done()


async def quiet(idle: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it became idle within PATIENCE_S."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_S
    while not await idle():
        if loop.time() > until:
            return False
        await asyncio.sleep(IDLE_POLL_S)
    return True
