"""How long this request may still take, carried beside the call and never as a parameter. Pure but for the clock.

The gateway starts the deadline; `services/handles.py` reads it and hands the remainder to the next process.
Times are seconds on the monotonic clock; no deadline set means no limit (offline callers).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from tenants.errors import DeadlineExceeded

_EXPIRES_AT: ContextVar[float] = ContextVar("fathom_deadline", default=math.inf)


def start(seconds: float) -> None:
    """Allow `seconds` from now for everything that this task and its children do."""
    _EXPIRES_AT.set(time.monotonic() + seconds)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Allow the block at most `seconds`, and never more than was left: a budget inside the request's own."""
    token = _EXPIRES_AT.set(min(_EXPIRES_AT.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _EXPIRES_AT.reset(token)


def remaining_s() -> float:
    """Seconds left; infinite without a deadline, never negative."""
    return max(0.0, _EXPIRES_AT.get() - time.monotonic())


def check() -> float:
    """`remaining_s`, or `DeadlineExceeded` once nothing is left."""
    left = remaining_s()
    if left <= 0:
        raise _exceeded()
    return left


@asynccontextmanager
async def enforced() -> AsyncIterator[None]:
    """Cancel the block when the deadline passes, and raise `DeadlineExceeded` in its place."""
    left = check()
    try:
        async with asyncio.timeout(None if math.isinf(left) else left) as limit:
            yield
    except TimeoutError:
        # The loop's timers are coarser than the clock: this one may ring before the deadline by the clock.
        if limit.expired():
            raise _exceeded() from None
        raise


def _exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("the request took longer than it may; try again, or ask for less", retry_after_s=1)
