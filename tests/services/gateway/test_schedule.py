"""Start-time fair queuing: the published bounds, by random histories in virtual time."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Iterable
from statistics import fmean

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.schedule import Schedule, Ticket

SLOTS = st.integers(1, 4)
COSTS = st.lists(st.floats(0.1, 10), min_size=20, max_size=60)
WEIGHTS = st.sampled_from([0.5, 1.0, 2.0, 3.0])


def test_tags_follow_the_paper_on_one_slot():
    # a: 1,1,1 and b: 1 at v=0 give start tags a 0,1,2 and b 0; the tie goes to who came first.
    schedule = Schedule(1)
    tickets = [schedule.arrive(tenant) for tenant in ("a", "a", "a", "b")]
    assert [tickets.index(ticket) for ticket in _drain(schedule)] == [0, 3, 1, 2]


def test_a_weight_of_two_gets_twice_as_much():
    # start tags: a 0, 1, 2, 3 … and b 0, ½, 1, 1½ …: two of b for each of a.
    schedule = Schedule(1)
    for _ in range(30):
        schedule.arrive("a", weight=1)
        schedule.arrive("b", weight=2)
    served = Counter(ticket.tenant for ticket in _drain(schedule)[:30])
    assert served == {"a": 10, "b": 20}


def test_a_rested_tenant_has_neither_credit_nor_debt():
    schedule = Schedule(1)
    for _ in range(50):
        schedule.arrive("a")
    _drain(schedule)
    for tenant in ("a", "b", "a", "b"):
        schedule.arrive(tenant)
    assert [ticket.tenant for ticket in _drain(schedule)] == ["a", "b", "a", "b"]


@settings(max_examples=60, deadline=None)
@given(slots=SLOTS, costs_f=COSTS, costs_g=COSTS, weight_f=WEIGHTS, weight_g=WEIGHTS, order=st.randoms())
def test_two_backlogged_tenants_share_by_weight(
    slots: int, costs_f: list[float], costs_g: list[float], weight_f: float, weight_g: float, order: random.Random
):
    # SFQ(D), Jin et al. 2004: |W_f/φ_f − W_g/φ_g| ≤ (D + 1)(l_f/φ_f + l_g/φ_g) over any interval with both backlogged.
    schedule = Schedule(slots)
    arrivals = [("f", cost, weight_f) for cost in costs_f] + [("g", cost, weight_g) for cost in costs_g]
    order.shuffle(arrivals)
    for tenant, cost, weight in arrivals:
        schedule.arrive(tenant, cost, weight)
    lead, leads = {"f": 0.0, "g": 0.0}, [0.0]
    for ticket in _completions(schedule):
        if not (schedule.queued("f") and schedule.queued("g")):
            break
        lead[ticket.tenant] += ticket.cost / (weight_f if ticket.tenant == "f" else weight_g)
        leads.append(lead["f"] - lead["g"])
    bound = (slots + 1) * (max(costs_f) / weight_f + max(costs_g) / weight_g)
    assert max(leads) - min(leads) <= bound + 1e-9


@settings(max_examples=60, deadline=None)
@given(slots=SLOTS, cap=st.sampled_from([None, 1, 2]), flood=st.integers(5, 80), progress=st.integers(0, 40))
def test_a_newcomer_lets_at_most_one_request_of_a_flood_pass(slots: int, cap: int | None, flood: int, progress: int):
    schedule = Schedule(slots, tenant_slots=cap)
    for _ in range(flood):
        schedule.arrive("flood")
        schedule.arrive("steady")
    running = deque(schedule.serve())
    for _ in range(min(progress, flood)):
        schedule.finish(running.popleft())
        running.extend(schedule.serve())
    newcomer = schedule.arrive("newcomer")
    ahead: Counter[str] = Counter()
    running.extend(schedule.serve())
    while not newcomer.served:
        schedule.finish(running.popleft())
        for ticket in schedule.serve():
            ahead[ticket.tenant] += ticket is not newcomer
            running.append(ticket)
    assert ahead["flood"] <= 1
    assert ahead["steady"] <= 1


@settings(max_examples=60, deadline=None)
@given(slots=SLOTS, cap=st.sampled_from([None, 1, 2]), steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4))))
def test_every_request_is_served_once_or_leaves_and_no_slot_idles(
    slots: int, cap: int | None, steps: list[tuple[int, int]]
):
    schedule, waiting, running, served = Schedule(slots, tenant_slots=cap), [], [], []
    for action, which in steps:
        if action < 5:
            waiting.append(schedule.arrive(f"t{which}", cost=1 + which))
        elif action < 7 and waiting:
            schedule.leave(waiting.pop(which % len(waiting)))
        elif running:
            schedule.finish(running.pop(which % len(running)))
        for ticket in schedule.serve():
            waiting.remove(ticket)
            running.append(ticket)
            served.append(ticket)
        held = Counter(ticket.tenant for ticket in running)
        assert (schedule.running, schedule.waiting) == (len(running), len(waiting))
        assert all(count <= (cap or slots) for count in held.values())
        if cap is None:
            assert len(running) == min(slots, len(running) + len(waiting)), "work-conserving"
    assert len(set(map(id, served))) == len(served)
    assert not any(ticket.left for ticket in served)


def test_one_who_leaves_costs_its_tenant_nothing():
    schedule = Schedule(1)
    running = schedule.arrive("x")
    next(schedule.serve())
    gone = [schedule.arrive("a", cost=100) for _ in range(10)]
    stays = schedule.arrive("a")
    schedule.arrive("b")
    for ticket in gone:
        schedule.leave(ticket)
    schedule.finish(running)
    assert _drain(schedule)[0] is stays


def test_resting_tenants_leave_nothing_behind():
    schedule = Schedule(2)
    for number in range(1_000):
        schedule.arrive(f"t{number}")
    _drain(schedule)
    assert schedule._flows == {}
    assert schedule.competitors() == 0


# 4 slots of 10 ms = 400/s for 10 tenants: a share is 40/s. Nine send 12/s each, the tenth 50 times its share.
LIGHT, FLOOD = [12.0] * 9, [2_000.0]


def test_a_noisy_neighbour_costs_the_others_one_slot_of_waiting():
    baseline, flooded = _simulate([*LIGHT, 12.0], None), _simulate(LIGHT + FLOOD, None)
    assert flooded["mean_wait_s"] <= baseline["mean_wait_s"] + 0.010
    assert flooded["rejected_of_others"] == 0
    assert flooded["rejected"] > 0, "the flood itself is refused"
    assert flooded["served"] >= 0.98 * 400 * 20, "and gets all that the others leave"


def test_with_slots_kept_free_the_others_hardly_notice_a_noisy_neighbour():
    baseline, flooded = _simulate([*LIGHT, 12.0], 2), _simulate(LIGHT + FLOOD, 2)
    assert flooded["p99_latency_s"] <= 1.5 * baseline["p99_latency_s"]
    assert flooded["rejected_of_others"] == 0


def _simulate(
    rates_per_s: list[float], tenant_slots: int | None, seconds: float = 20, service_s: float = 0.010
) -> dict:
    """Poisson arrivals into 4 slots with queues of 128 per tenant, in virtual time; waits are of all but the last."""
    dice, schedule = random.Random(7), Schedule(4, tenant_slots=tenant_slots)
    events = [(when, n, f"t{who}", None) for n, (when, who) in enumerate(_poisson(dice, rates_per_s, seconds))]
    heapq.heapify(events)
    number, last = len(events), f"t{len(rates_per_s) - 1}"
    arrived: dict[Ticket, float] = {}
    waits: dict[str, list[float]] = {f"t{who}": [] for who in range(len(rates_per_s))}
    rejected: Counter[str] = Counter()
    while events:
        now, _, tenant, ticket = heapq.heappop(events)
        if ticket is not None:
            schedule.finish(ticket)
        elif schedule.queued(tenant) >= 128:
            rejected[tenant] += 1
        else:
            arrived[schedule.arrive(tenant)] = now
        for started in schedule.serve():
            number += 1
            waits[started.tenant].append(now - arrived.pop(started))
            heapq.heappush(events, (now + service_s, number, started.tenant, started))
    others = sorted(wait for tenant, found in waits.items() if tenant != last for wait in found)
    return {
        "mean_wait_s": fmean(others),
        "p99_latency_s": others[int(0.99 * len(others))] + service_s,
        "rejected": rejected.total(),
        "rejected_of_others": rejected.total() - rejected[last],
        "served": sum(map(len, waits.values())),
    }


def _poisson(dice: random.Random, rates_per_s: list[float], seconds: float) -> Iterable[tuple[float, int]]:
    for who, rate in enumerate(rates_per_s):
        now = dice.expovariate(rate)
        while now < seconds:
            yield now, who
            now += dice.expovariate(rate)


def _completions(schedule: Schedule) -> Iterable[Ticket]:
    """Run everything, each request as long as its cost; yields the requests as they end."""
    number, ends = 0, []
    now = 0.0
    while True:
        for ticket in schedule.serve():
            number += 1
            heapq.heappush(ends, (now + ticket.cost, number, ticket))
        if not ends:
            return
        now, _, ticket = heapq.heappop(ends)
        schedule.finish(ticket)
        yield ticket


def _drain(schedule: Schedule) -> list[Ticket]:
    """Serve everything, first in first out of the slots; the order of service."""
    order: list[Ticket] = []
    busy = deque(schedule.serve())
    while busy:
        order.append(busy.popleft())
        schedule.finish(order[-1])
        busy.extend(schedule.serve())
    return order
