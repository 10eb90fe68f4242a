"""Threads for small writes, shared fairly: so many at once, and so many of one tenant. Async shell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class Turns:
    """`threads` calls run at once, at most `per_tenant` of one tenant; the others wait in order of arrival.

    For one event loop. A tenant's writes wait for each other's lease anyway; its cap keeps threads for the others.
    """

    def __init__(self, threads: int = 16, per_tenant: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fathom-write")
        self._per_tenant = per_tenant
        self._of_tenant: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, uid: str, call: Callable[[], T]) -> T:
        """`call()` in a thread once it is this tenant's turn. A caller that gives up before that leaves no trace."""
        turn = self._of_tenant.setdefault(uid, asyncio.Semaphore(self._per_tenant))
        await turn.acquire()
        loop, work = asyncio.get_running_loop(), self._pool.submit(call)
        # A caller that gives up later does not end its thread: the turn is free when the thread is.
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(turn.release))
        return await asyncio.wrap_future(work)
