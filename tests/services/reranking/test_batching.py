"""The queue is checked against its definition, the worker with an engine that waits until it is let go."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from services import deadline
from services.contracts import Float32
from services.reranking.batching import Job, Pair, PairBatcher, PairQueue, tokens_of
from tenants.errors import DeadlineExceeded, Overloaded, Unavailable

LIMIT_S = 20
NEVER = float("inf")


def pair(tokens: int, mark: int = 0) -> Pair:
    """A pair of `tokens` tokens in all; the first is `mark`."""
    return mark.to_bytes(4, "little"), b"\1\0\0\0" * (tokens - 1)


def logit(one: Pair) -> float:
    """What the engines of these tests say: the pair's mark."""
    return float(int.from_bytes(one[0], "little"))


class Recorder:
    """Computes marks and keeps the batches; the first call blocks until `held` is set."""

    def __init__(self) -> None:
        self.batches: list[list[Pair]] = []
        self.entered, self.held = threading.Event(), threading.Event()
        self.held.set()

    def score(self, pairs: Sequence[Pair]) -> Float32:
        self.entered.set()
        assert self.held.wait(LIMIT_S)
        self.batches.append(list(pairs))
        return np.array([logit(one) for one in pairs], np.float32)


class Counts:
    """batching.Meter that keeps what it hears."""

    def __init__(self) -> None:
        self.fills: list[tuple[int, float]] = []

    def scored(self, tenant: str, model: str, pairs: int, cached: int) -> None: ...

    def batch(self, model: str, pairs: int, fill: float) -> None:
        self.fills.append((pairs, fill))

    def queued(self, model: str, pairs: int) -> None: ...


@pytest.fixture
def opened() -> Iterator[Callable[..., PairBatcher]]:
    made: list[PairBatcher] = []

    def make(engine: object, budget_tokens: int = 100, queue_pairs: int = 100) -> PairBatcher:
        made.append(PairBatcher("m", engine, budget_tokens=budget_tokens, queue_pairs=queue_pairs, meter=Counts()))
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


async def taken(queue: PairQueue, budget_tokens: int) -> list[tuple[str, int, int]]:
    return [(part.job.tenant, part.start, part.end) for part in queue.take(budget_tokens, 0.0)]


async def test_a_batch_is_filled_evenly_from_every_tenant() -> None:
    queue = PairQueue()
    queue.put(Job("flood", [pair(10)] * 100, NEVER))
    queue.put(Job("calm", [pair(10)] * 3, NEVER))
    assert sorted(await taken(queue, 60)) == [("calm", 0, 3), ("flood", 0, 3)]
    assert queue.waiting == 97


async def test_tokens_are_what_is_shared() -> None:
    queue = PairQueue()
    queue.put(Job("long", [pair(40)] * 10, NEVER))
    queue.put(Job("short", [pair(10)] * 40, NEVER))
    served = {"long": 0, "short": 0}
    for _ in range(4):
        for tenant, start, end in await taken(queue, 80):
            served[tenant] += (end - start) * (40 if tenant == "long" else 10)
    assert abs(served["long"] - served["short"]) <= 40 + 10, "the bound of start-time fair queueing"


async def test_a_tenant_that_rested_gets_no_credit() -> None:
    queue = PairQueue()
    queue.put(Job("busy", [pair(10)] * 100, NEVER))
    await taken(queue, 500)
    queue.put(Job("new", [pair(10)] * 100, NEVER))
    assert {tenant: end - start for tenant, start, end in await taken(queue, 100)} == {"new": 5, "busy": 5}


async def test_a_search_overtakes_its_own_tenants_long_list() -> None:
    queue = PairQueue()
    queue.put(Job("a", [pair(10)] * 100, NEVER))
    short = Job("a", [pair(10)] * 2, NEVER)
    queue.put(short)
    parts = queue.take(30, 0.0)
    assert [(part.job is short, part.end - part.start) for part in parts] == [(True, 2), (False, 1)]


async def test_one_pair_goes_even_when_it_is_longer_than_the_budget() -> None:
    queue = PairQueue()
    queue.put(Job("a", [pair(500), pair(10)], NEVER))
    assert await taken(queue, 100) == [("a", 0, 1)]
    assert await taken(queue, 100) == [("a", 1, 2)]
    assert await taken(queue, 100) == []
    assert queue.waiting == 0


async def test_a_request_whose_time_is_over_is_not_taken() -> None:
    queue = PairQueue()
    late, early = Job("a", [pair(10)] * 5, expires_at=1.0), Job("a", [pair(10)] * 2, expires_at=9.0)
    queue.put(late)
    queue.put(early)
    assert [part.job for part in queue.take(1_000, now=5.0)] == [early]
    assert queue.waiting == 0


async def test_logits_come_back_in_order_whatever_the_batches(opened: Callable[..., PairBatcher]) -> None:
    recorder = Recorder()
    batcher = opened(recorder, budget_tokens=50)

    async def ask(tenant: str, first: int) -> list[float]:
        with batcher.submitted(tenant, [pair(10, first + number) for number in range(7)]) as job:
            return (await job.wait()).tolist()

    answers = await asyncio.gather(*(ask(f"t{number % 3}", number * 10) for number in range(9)))
    assert answers == [[number * 10.0 + offset for offset in range(7)] for number in range(9)]
    assert all(sum(map(tokens_of, batch)) <= 50 for batch in recorder.batches)
    assert sum(map(len, recorder.batches)) == 63


async def test_who_waits_together_is_computed_together(opened: Callable[..., PairBatcher]) -> None:
    recorder = Recorder()
    recorder.held.clear()
    batcher = opened(recorder)
    with batcher.submitted("a", [pair(10)]) as first:
        assert await asyncio.to_thread(recorder.entered.wait, LIMIT_S)
        with batcher.submitted("a", [pair(10)]) as second, batcher.submitted("b", [pair(10)]) as third:
            recorder.held.set()
            await asyncio.gather(first.wait(), second.wait(), third.wait())
    assert list(map(len, recorder.batches)) == [1, 2]


async def test_a_caller_who_left_costs_nothing(opened: Callable[..., PairBatcher]) -> None:
    recorder = Recorder()
    recorder.held.clear()
    batcher = opened(recorder)
    with batcher.submitted("a", [pair(10, 1)]) as first:
        assert await asyncio.to_thread(recorder.entered.wait, LIMIT_S)
        with batcher.submitted("a", [pair(10, 2)] * 50):
            pass
        with batcher.submitted("a", [pair(10, 3)]) as stayed:
            recorder.held.set()
            await asyncio.gather(first.wait(), stayed.wait())
    assert [list(map(logit, batch)) for batch in recorder.batches] == [[1.0], [3.0]]


async def test_a_full_queue_refuses_but_an_idle_one_takes_any_request(opened: Callable[..., PairBatcher]) -> None:
    recorder = Recorder()
    recorder.held.clear()
    batcher = opened(recorder, queue_pairs=5)
    with batcher.submitted("a", [pair(100)] * 8) as long:
        assert await asyncio.to_thread(recorder.entered.wait, LIMIT_S)
        with pytest.raises(Overloaded) as refused, batcher.submitted("b", [pair(10)]):
            pytest.fail("the queue took it")
        assert refused.value.retry_after_s
        recorder.held.set()
        assert len(await long.wait()) == 8


async def test_no_time_left_is_refused_before_it_queues(opened: Callable[..., PairBatcher]) -> None:
    batcher = opened(Recorder())
    with deadline.within(0), pytest.raises(DeadlineExceeded), batcher.submitted("a", [pair(10)]):
        pytest.fail("it queued")


async def test_what_was_computed_before_the_caller_left_is_known(opened: Callable[..., PairBatcher]) -> None:
    second, release = threading.Event(), threading.Event()

    class HeldAtTheSecond(Recorder):
        def score(self, pairs: Sequence[Pair]) -> Float32:
            if self.batches:
                second.set()
                assert release.wait(LIMIT_S)
            return super().score(pairs)

    batcher = opened(HeldAtTheSecond(), budget_tokens=20)
    with batcher.submitted("a", [pair(10, number) for number in range(4)]) as job:
        assert await asyncio.to_thread(second.wait, LIMIT_S)
        assert job.logits[:2].tolist() == [0.0, 1.0]
        assert np.isnan(job.logits[2:]).all()
        release.set()


async def test_one_requests_poison_fails_it_alone(opened: Callable[..., PairBatcher]) -> None:
    class Poisoned(Recorder):
        def score(self, pairs: Sequence[Pair]) -> Float32:
            logits = super().score(pairs)
            if 13.0 in logits:
                raise ValueError("a secret text")
            return logits

    recorder = Poisoned()
    recorder.held.clear()
    batcher = opened(recorder)
    with batcher.submitted("x", [pair(10)]) as first:
        assert await asyncio.to_thread(recorder.entered.wait, LIMIT_S)
        with batcher.submitted("a", [pair(10, 13)]) as bad, batcher.submitted("b", [pair(10, 7)]) as good:
            recorder.held.set()
            await first.wait()
            assert (await good.wait()).tolist() == [7.0]
            with pytest.raises(Unavailable) as caught:
                await bad.wait()
    assert "secret" not in caught.value.detail
    with batcher.submitted("a", [pair(10, 5)]) as later:
        assert (await later.wait()).tolist() == [5.0], "the worker outlived it"


async def test_requests_that_come_together_share_a_batch() -> None:
    queue = PairQueue()
    first, second = Job("a", [pair(10)] * 10, NEVER), Job("a", [pair(10)] * 20, NEVER)
    queue.put(first)
    queue.put(second)
    assert {part.job: part.end - part.start for part in queue.take(100, 0.0)} == {first: 5, second: 5}


async def test_a_part_is_what_was_computed_in_time() -> None:
    job = Job("a", [pair(10)] * 3, NEVER)
    with pytest.raises(DeadlineExceeded):
        await job.wait_until(0.0)
    job.deliver(0, np.array([1.5, 2.5], np.float32))
    np.testing.assert_array_equal(await job.wait_until(0.0), np.array([1.5, 2.5, np.nan], np.float32))
    job.deliver(2, np.array([3.5], np.float32))
    assert (await job.wait_until(math.inf)).tolist() == [1.5, 2.5, 3.5]
