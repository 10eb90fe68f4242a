"""The gate: order, bounds, time-outs and cancellation on a real event loop, without waiting for any clock."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress

import pytest

from services.gateway.fairness import COMPANY_S, FairGate
from tenants.errors import DeadlineExceeded, Overloaded


class Stage:
    """A stage behind a gate; each visit notes who is in and stays until told to go."""

    def __init__(self, gate: FairGate) -> None:
        self.gate = gate
        self.order: list[str] = []
        self.go = asyncio.Event()

    async def visit(self, tenant: str, timeout_s: float | None = None) -> None:
        async with self.gate.admit(tenant, timeout_s=timeout_s):
            self.order.append(tenant)
            await self.go.wait()

    async def visit_once(self, tenant: str) -> None:
        async with self.gate.admit(tenant):
            pass

    def send(self, *tenants: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.visit(tenant)) for tenant in tenants]


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_free_slot_costs_no_turn_of_the_loop():
    gate = FairGate(1)
    admission = gate.admit("a")
    step = admission.__aenter__()
    with pytest.raises(StopIteration) as done:
        step.send(None)
    assert done.value.value >= 0, "the seconds waited"
    assert (gate.running, gate.waiting) == (1, 0)
    await admission.__aexit__(None, None, None)
    assert gate.running == 0


async def test_a_newcomer_passes_a_flood():
    stage = Stage(FairGate(2))
    tasks = stage.send(*["flood"] * 20)
    await settle()
    tasks += stage.send("newcomer")
    await settle()
    assert stage.order == ["flood", "flood"]
    stage.go.set()
    await asyncio.gather(*tasks)
    assert stage.order.index("newcomer") <= 3
    assert (stage.gate.running, stage.gate.waiting) == (0, 0)


async def test_a_tenant_may_not_hold_every_slot_where_some_are_kept_free():
    now = [0.0]
    gate = FairGate(4, tenant_slots=3, clock=lambda: now[0])
    await Stage(gate).visit_once("neighbour")
    stage = Stage(gate)
    tasks = stage.send(*["flood"] * 10)
    await settle()
    assert stage.order == ["flood"] * 3
    tasks += stage.send("neighbour")
    await settle()
    assert stage.order == ["flood"] * 3 + ["neighbour"]
    stage.go.set()
    await asyncio.gather(*tasks)


async def test_a_tenant_without_company_may_hold_every_slot():
    now = [0.0]
    gate = FairGate(4, tenant_slots=3, clock=lambda: now[0])
    await Stage(gate).visit_once("neighbour")
    now[0] = COMPANY_S
    stage = Stage(gate)
    tasks = stage.send(*["alone"] * 10)
    await settle()
    assert stage.order == ["alone"] * 4
    stage.go.set()
    await asyncio.gather(*tasks)


async def test_a_full_queue_of_a_tenant_is_overloaded_and_only_its_own():
    stage = Stage(FairGate(1, max_queued_per_tenant=3))
    tasks = stage.send(*["flood"] * 4)
    await settle()
    with pytest.raises(Overloaded) as refused:
        await stage.visit("flood")
    assert refused.value.retry_after_s is not None
    assert 1 <= refused.value.retry_after_s <= 60
    tasks += stage.send("newcomer")
    await settle()
    stage.go.set()
    await asyncio.gather(*tasks)
    assert "newcomer" in stage.order


async def test_when_all_queues_are_full_the_longest_gives_way():
    stage = Stage(FairGate(1, max_queued=5))
    flood = stage.send(*["flood"] * 6)
    await settle()
    others = stage.send("a", "b")
    await settle()
    stage.go.set()
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    await asyncio.gather(*others)
    # The newest two of the flood's five in the queue made room for a and b.
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 4 + [Overloaded] * 2


async def test_a_newcomer_with_the_longest_queue_is_refused_itself():
    stage = Stage(FairGate(1, max_queued=2))
    tasks = stage.send("a", "a", "a")
    await settle()
    with pytest.raises(Overloaded):
        await stage.visit("a")
    stage.go.set()
    await asyncio.gather(*tasks)


async def test_a_waiter_past_its_deadline_leaves():
    stage = Stage(FairGate(1))
    tasks = stage.send("a")
    await settle()
    with pytest.raises(DeadlineExceeded):
        await stage.visit("b", timeout_s=0)
    assert stage.gate.waiting == 0
    stage.go.set()
    await asyncio.gather(*tasks)


async def test_a_cancelled_waiter_frees_its_place():
    stage = Stage(FairGate(1))
    first, second, third = stage.send("a", "b", "c")
    await settle()
    second.cancel()
    with suppress(asyncio.CancelledError):
        await second
    assert stage.gate.waiting == 1
    stage.go.set()
    await asyncio.gather(first, third)
    assert stage.order == ["a", "c"]


async def test_one_cancelled_in_the_step_it_is_served_hands_the_slot_on():
    gate = FairGate(1)
    held = AsyncExitStack()
    await held.enter_async_context(gate.admit("a"))
    stage = Stage(gate)
    chosen, after = stage.send("b", "c")
    await settle()
    await held.aclose()  # b is granted the slot here, but has not run yet
    chosen.cancel()
    with pytest.raises(asyncio.CancelledError):
        await chosen
    stage.go.set()
    await after
    assert stage.order == ["c"]
    assert (gate.running, gate.waiting) == (0, 0)


async def test_an_error_or_cancellation_inside_frees_the_slot():
    gate = FairGate(1)
    with pytest.raises(ValueError, match="inside"):
        async with gate.admit("a"):
            raise ValueError("inside")
    stage = Stage(gate)
    (task,) = stage.send("a")
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (gate.running, gate.waiting) == (0, 0)


async def test_the_wait_is_measured_and_retry_after_follows_the_service_time():
    now = [0.0]
    gate = FairGate(1, max_queued_per_tenant=1, clock=lambda: now[0])
    async with gate.admit("a"):
        waiter = asyncio.create_task(_wait_of(gate, "a"))
        await settle()
        now[0] = 5.0
    assert await waiter == 5.0
    async with gate.admit("a"):  # one slot, 5 s and 0 s of service seen
        waiter = asyncio.create_task(_wait_of(gate, "a"))
        await settle()
        with pytest.raises(Overloaded) as refused:
            await _wait_of(gate, "a")
    await waiter
    assert refused.value.retry_after_s == pytest.approx(5.0 * 0.9 * 1)


async def _wait_of(gate: FairGate, tenant: str) -> float:
    async with gate.admit(tenant) as wait_s:
        return wait_s


@pytest.mark.parametrize("seed", range(8))
async def test_random_cancellations_lose_no_slot(seed: int):
    dice, gate = random.Random(seed), FairGate(3, tenant_slots=2, max_queued_per_tenant=6, max_queued=12)
    most = 0

    async def visit(tenant: str) -> None:
        nonlocal most
        async with gate.admit(tenant, timeout_s=dice.choice([None, None, 0, 5])):
            most = max(most, gate.running)
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    for _ in range(300):
        tasks.append(asyncio.create_task(visit(f"t{dice.randrange(4)}")))
        if dice.random() < 0.4:
            dice.choice(tasks).cancel()
        if dice.random() < 0.5:
            await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    unexpected = [
        o
        for o in outcomes
        if o is not None and not isinstance(o, asyncio.CancelledError | Overloaded | DeadlineExceeded)
    ]
    assert unexpected == []
    assert most == 3
    assert (gate.running, gate.waiting, gate._turns) == (0, 0, {})
