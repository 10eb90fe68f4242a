"""What stands between a verified caller and the work: the tenant's own quotas, then a fair place in the queue."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from services import deadline
from services.gateway.auth import OPERATOR, Access
from services.gateway.context import RequestContext
from services.gateway.fairness import FairGate
from services.gateway.ports import Platform


def counted(platform: Platform, access: Access, request: Request) -> None:
    """Count the request against the tenant's rate; its headers go out with any answer. Raises `QuotaExceeded`."""
    if access.key_id == OPERATOR:
        return
    decision = platform.limits.request(access.scope.uid, access.scope.config.quotas)
    RequestContext.of(request.scope).headers.update(decision.headers())
    decision.enforce()


@asynccontextmanager
async def admitted(
    platform: Platform, access: Access, *, cost: float = 1.0, gate: FairGate | None = None
) -> AsyncIterator[None]:
    """Hold one of the tenant's places and one slot of `gate` (default: the questions') while a request is at work.

    Enter it once the body is read: a client that sends slowly must not hold what others wait for. Raises
    `QuotaExceeded`, `Overloaded`, `DeadlineExceeded`.
    """
    left = deadline.remaining_s()
    with platform.limits.running(access.scope.uid, access.scope.config.quotas):
        line, timeout_s = gate or platform.gate, None if math.isinf(left) else left
        async with line.admit(access.scope.uid, cost, timeout_s=timeout_s) as waited_s:
            platform.metrics.stage(access.scope.tenant, "queue", waited_s)
            yield
