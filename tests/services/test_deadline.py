"""A budget inside the request's deadline only ever narrows it."""

from __future__ import annotations

import math

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
