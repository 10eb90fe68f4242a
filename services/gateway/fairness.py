"""Fair sharing between tenants in front of a shared stage: `async with gate.admit(tenant):`.

At most `slots` requests are at work; the others wait in the order of `schedule.Schedule`, so that a flooding
tenant queues behind itself. A tenant below its share waits for one slot to come free, however many requests
another one has sent. For one event loop; not thread-safe.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.gateway.schedule import Schedule, Ticket
from tenants.errors import DeadlineExceeded, Overloaded

COMPANY_S = 10.0
_SMOOTHING = 0.1  # of the mean service time that `Retry-After` is reckoned from
_LONGEST_RETRY_S = 60.0


class FairGate:
    """The shell around `Schedule`: futures, time-outs, bounded queues.

    slots                 requests at work at once
    tenant_slots          of these, how many one tenant may hold while it has company (None = all): what it may not
                          hold is free for a neighbour at once. Company = two tenants came within `COMPANY_S`
    max_queued_per_tenant longer queues are refused with `Overloaded`
    max_queued            all queues together; when full, the newest request of the longest queue gives way
    """

    def __init__(
        self,
        slots: int,
        *,
        tenant_slots: int | None = None,
        max_queued_per_tenant: int = 128,
        max_queued: int = 2_048,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedule = Schedule(slots)
        self._slots = slots
        self._tenant_slots = min(slots, tenant_slots or slots)
        self._latest_tenant = ""
        self._latest_s = self._neighbour_s = -math.inf
        self._max_queued_per_tenant = max_queued_per_tenant
        self._max_queued = max_queued
        self._clock = clock
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._service_s = 0.0

    @property
    def running(self) -> int:
        """How many requests are at work."""
        return self._schedule.running

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._schedule.waiting

    @asynccontextmanager
    async def admit(
        self, tenant: str, cost: float = 1.0, *, weight: float = 1.0, timeout_s: float | None = None
    ) -> AsyncIterator[float]:
        """Hold a slot for the block; gives the seconds waited.

        Raises `Overloaded` (with `retry_after_s`) when the queue is full, `DeadlineExceeded` when no slot came
        free within `timeout_s`. A cancelled waiter frees its place.
        """
        arrived = self._clock()
        self._notice(tenant, arrived)
        ticket = self._enter(tenant, cost, weight)
        await self._turn(ticket, timeout_s)
        began = self._clock()
        try:
            yield began - arrived
        finally:
            took = self._clock() - began
            self._service_s += (took - self._service_s) * (_SMOOTHING if self._service_s else 1.0)
            self._schedule.finish(ticket)
            self._serve()

    def _notice(self, tenant: str, now: float) -> None:
        # `_neighbour_s` is when somebody other than the latest tenant last came: two numbers instead of a table.
        if tenant != self._latest_tenant:
            self._latest_tenant, self._neighbour_s = tenant, self._latest_s
        self._latest_s = now
        company = now - self._neighbour_s < COMPANY_S
        self._schedule.tenant_slots = self._tenant_slots if company else self._slots

    def _enter(self, tenant: str, cost: float, weight: float) -> Ticket:
        # The newcomer queues first and is served if it can be: bounds concern only what then still waits.
        ticket = self._schedule.arrive(tenant, cost, weight)
        self._serve()
        if ticket.served:
            return ticket
        if self._schedule.queued(tenant) > self._max_queued_per_tenant:
            self._schedule.leave(ticket)
            raise self._overloaded(tenant)
        if self._schedule.waiting > self._max_queued:
            self._give_way(ticket)
        return ticket

    def _give_way(self, ticket: Ticket) -> None:
        loser = self._schedule.newest(self._schedule.longest())
        error = self._overloaded(loser.tenant)
        self._schedule.leave(loser)
        if loser is ticket:
            raise error
        turn = self._turns[loser]
        if not turn.done():
            turn.set_exception(error)

    async def _turn(self, ticket: Ticket, timeout_s: float | None) -> None:
        if ticket.served:
            return
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except TimeoutError:
            self._abandon(ticket)
            raise DeadlineExceeded("no place came free in time; retry later", retry_after_s=self._wait_s(1)) from None
        except asyncio.CancelledError:
            self._abandon(ticket)
            raise
        finally:
            del self._turns[ticket]
            if turn.done() and not turn.cancelled():
                turn.exception()  # seen, also when the waiter was cancelled in the very step it was refused

    def _abandon(self, ticket: Ticket) -> None:
        # The slot may have been granted in the very step in which the waiter gave up.
        if ticket.served:
            self._schedule.finish(ticket)
        elif not ticket.left:
            self._schedule.leave(ticket)
        self._serve()

    def _serve(self) -> None:
        for ticket in self._schedule.serve():
            turn = self._turns.get(ticket)
            if turn is not None and not turn.done():
                turn.set_result(None)

    def _overloaded(self, tenant: str) -> Overloaded:
        wait_s = self._wait_s(self._schedule.queued(tenant))
        return Overloaded("too many of your requests wait here; retry later, with fewer at once", retry_after_s=wait_s)

    def _wait_s(self, queued: int) -> float:
        """How long `queued` requests of one tenant take while every competitor gets its share; 1 s to 1 min."""
        share = max(1, self._schedule.competitors()) / self._schedule.slots
        return min(max(1.0, queued * self._service_s * share), _LONGEST_RETRY_S)
