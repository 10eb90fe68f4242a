"""Start-time fair queuing over a number of equal slots. Pure: no clock, no event loop.

P. Goyal, H. Vin, H. Cheng, "Start-time Fair Queuing: A Scheduling Algorithm for Integrated Services Packet
Switching Networks", SIGCOMM 1996; over several slots as SFQ(D), W. Jin, J. Chase, J. Kaur, "Interposed
Proportional Sharing for a Storage Service Utility", SIGMETRICS 2004. Request k of tenant f with cost l, weight φ:

    start(k)  = max(v at its arrival, finish(k-1))        finish(k) = start(k) + l / φ
    served in order of start tags; v = the largest start tag served so far, and at rest the largest finish tag.

So a tenant below its share is served before every waiting request of a tenant above it, and for two tenants
that both wait throughout, |W_f / φ_f − W_g / φ_g| ≤ (D + 1) · (l_f / φ_f + l_g / φ_g), W = cost served, D = slots.
Tags are given when a request becomes the first of its tenant, so one that leaves the queue costs nothing.

Full queue: the longest one gives way (P. McKenney, "Stochastic Fairness Queueing", INFOCOM 1990), so that a
flood is refused and its neighbours are not.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Ticket:
    """One request: waiting, then `served`, then finished; or gone before (`left`)."""

    tenant: str
    cost: float
    number: int  # of arrival
    eligible_at: float  # virtual time from which it may be served
    served: bool = False
    left: bool = False


@dataclass(slots=True)
class _Flow:
    weight: float
    finish: float = 0.0
    waiting: deque[Ticket] = field(default_factory=deque)
    running: int = 0
    ranked: bool = False  # whether its first waiting ticket stands in the heap


class Schedule:
    """Who is next. `arrive`, `leave` and `finish` change the queues; `serve` then hands out the free slots.

    slots         how many requests are at work at once
    tenant_slots  how many of them one tenant may hold; fewer than `slots` keeps places free for the others.
                  May be changed at any time; a tenant notices at its next arrival or finish
    """

    def __init__(self, slots: int, *, tenant_slots: int | None = None) -> None:
        self.slots = slots
        self.tenant_slots = min(slots, tenant_slots or slots)
        self.running = 0
        self.waiting = 0
        self._virtual = 0.0
        self._latest_finish = 0.0
        self._flows: dict[str, _Flow] = {}
        self._heads: list[tuple[float, int, str]] = []  # (start tag, arrival number, tenant)
        self._number = 0

    def queued(self, tenant: str) -> int:
        """How many of the tenant's requests wait."""
        flow = self._flows.get(tenant)
        return len(flow.waiting) if flow else 0

    def competitors(self) -> int:
        """How many tenants wait or are at work."""
        return sum(1 for flow in self._flows.values() if flow.waiting or flow.running)

    def longest(self) -> str:
        """The tenant with the longest queue; only while somebody waits."""
        return max(self._flows, key=lambda tenant: len(self._flows[tenant].waiting))

    def newest(self, tenant: str) -> Ticket:
        """The tenant's last ticket in the queue: the one that gives way."""
        return self._flows[tenant].waiting[-1]

    def arrive(self, tenant: str, cost: float = 1.0, weight: float = 1.0) -> Ticket:
        """Queue a request; `weight` is the tenant's share against the others'."""
        flow = self._flows.setdefault(tenant, _Flow(weight))
        flow.weight = weight
        self._number += 1
        ticket = Ticket(tenant, cost, self._number, self._virtual)
        flow.waiting.append(ticket)
        self.waiting += 1
        self._rank(tenant, flow)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """A waiting request gives up its place."""
        flow = self._flows[ticket.tenant]
        first = flow.waiting[0] is ticket
        flow.waiting.remove(ticket)
        ticket.left = True
        self.waiting -= 1
        if first and flow.ranked:
            self._heads = [head for head in self._heads if head[2] != ticket.tenant]
            heapq.heapify(self._heads)
            flow.ranked = False
            self._rank(ticket.tenant, flow)
        self._rest(ticket.tenant, flow)

    def finish(self, ticket: Ticket) -> None:
        """A served request frees its slot."""
        flow = self._flows[ticket.tenant]
        if flow.waiting and not flow.ranked:
            flow.waiting[0].eligible_at = self._virtual  # held back by its own limit: no credit for that time
        flow.running -= 1
        self.running -= 1
        self._rank(ticket.tenant, flow)
        self._rest(ticket.tenant, flow)

    def serve(self) -> Iterator[Ticket]:
        """Fill the free slots, smallest start tag first, equal tags in order of arrival."""
        while self.running < self.slots and self._heads:
            start, _, tenant = heapq.heappop(self._heads)
            flow = self._flows[tenant]
            flow.ranked = False
            ticket = flow.waiting.popleft()
            flow.finish = start + ticket.cost / flow.weight
            self._virtual = max(self._virtual, start)
            self._latest_finish = max(self._latest_finish, flow.finish)
            ticket.served = True
            flow.running += 1
            self.running += 1
            self.waiting -= 1
            self._rank(tenant, flow)
            yield ticket

    def _rank(self, tenant: str, flow: _Flow) -> None:
        if flow.ranked or not flow.waiting or flow.running >= self.tenant_slots:
            return
        first = flow.waiting[0]
        heapq.heappush(self._heads, (max(first.eligible_at, flow.finish), first.number, tenant))
        flow.ranked = True

    def _rest(self, tenant: str, flow: _Flow) -> None:
        if self.running == 0 and self.waiting == 0:
            self._virtual = self._latest_finish
            self._flows.clear()
        elif not flow.waiting and flow.running == 0 and flow.finish <= self._virtual:
            del self._flows[tenant]  # its next start tag is v either way
