"""A budget inside the request's deadline only ever narrows it."""

from __future__ import annotations

import asyncio
import math
import time
from types import SimpleNamespace

import pytest

from services import deadline
from tenants.errors import DeadlineExceeded


async def test_a_budget_ends_with_its_block() -> None:
    assert math.isinf(deadline.remaining_s())
    with deadline.within(5):
        assert 0 < deadline.remaining_s() <= 5
        with deadline.within(100):
            assert deadline.remaining_s() <= 5, "the narrower one holds"
        with deadline.within(math.inf):
            assert deadline.remaining_s() <= 5
        with deadline.within(0), pytest.raises(DeadlineExceeded):
            deadline.check()
    assert math.isinf(deadline.remaining_s())


async def test_a_budget_is_given_back_also_on_errors() -> None:
    with pytest.raises(KeyError), deadline.within(0):
        raise KeyError
    assert math.isinf(deadline.remaining_s())


async def test_a_timer_that_rings_before_the_clock_says_so_is_still_the_deadline(monkeypatch) -> None:
    started = time.monotonic()
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: started))
    with deadline.within(0.001), pytest.raises(DeadlineExceeded):
        async with deadline.enforced():
            await asyncio.Event().wait()


async def test_a_timeout_of_what_runs_inside_is_not_the_deadline() -> None:
    with deadline.within(60), pytest.raises(TimeoutError, match="of another"):
        async with deadline.enforced():
            raise TimeoutError("of another")
