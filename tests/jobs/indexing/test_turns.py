"""Small writes share the indexer's threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from jobs.indexing.turns import Turns


async def test_one_tenant_leaves_threads_to_the_others_even_when_its_callers_gave_up() -> None:
    turns, leave, entered = Turns(threads=3, per_tenant=2), threading.Event(), threading.Semaphore(0)

    def slow() -> None:
        entered.release()
        leave.wait(300)

    first = [asyncio.create_task(turns.run("acme", slow)) for _ in range(2)]
    for _ in first:
        assert await asyncio.to_thread(entered.acquire, timeout=300)
    for task in first:
        task.cancel()
    later = [asyncio.create_task(turns.run("acme", slow)) for _ in range(3)]
    try:
        assert await turns.run("other", lambda: "done") == "done"
        assert not entered.acquire(blocking=False)
    finally:
        leave.set()
    await asyncio.gather(*later)
    for task in first:
        with pytest.raises(asyncio.CancelledError):
            await task
