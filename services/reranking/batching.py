"""Pairs of many requests → batches of one model, fair between tenants: one worker thread a model. No framework.

A batch is filled pair by pair from the tenant that has had the fewest tokens (start-time fair queueing, see
services/gateway/schedule.py, with a pair as the unit), and within a tenant from the request that has had the fewest
pairs, the shortest first among equals: a search overtakes its own tenant's long list, and requests that come together
all get their first pairs, which are worth the most, before one gets its last. A request whose deadline has passed, or
whose caller has gone, leaves the queue and is not computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services import deadline
from services.contracts import Float32
from services.reranking.observed import ObservedCost
from tenants.errors import DeadlineExceeded, FathomError, Overloaded, Unavailable

TOKEN_BYTES = 4  # stored ids are uint32
_log = logging.getLogger("fathom.reranking")

Pair = tuple[bytes, bytes]  # token ids of the query and of the passage, see pairs.PairTokenizer


class Engine(Protocol):
    """What computes; called from one thread."""

    def score(self, pairs: Sequence[Pair]) -> Float32:
        """(n,) float32 raw logits."""
        ...


class Meter(Protocol):
    """Counts what a scorer does, by model reference; never raises, never blocks, called from any thread."""

    def scored(self, tenant: str, model: str, pairs: int, cached: int) -> None:
        """A tenant got the logits of `pairs`, `cached` of them remembered ones."""
        ...

    def batch(self, model: str, pairs: int, fill: float) -> None:
        """One batch was computed; `fill` is its tokens over the budget (above 1: one pair longer than the budget)."""
        ...

    def queued(self, model: str, pairs: int) -> None:
        """So many pairs wait now."""
        ...


class Job:
    """One request's pairs: `logits` (n,) float32 fill up in order, NaN = not computed yet."""

    def __init__(self, tenant: str, pairs: Sequence[Pair], expires_at: float) -> None:
        self.tenant = tenant
        self.pairs = pairs
        self.logits = np.full(len(pairs), np.nan, np.float32)
        self.expires_at = expires_at
        self.taken = 0
        self._computed = 0
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()

    @property
    def left(self) -> int:
        """Pairs that no batch has taken."""
        return len(self.pairs) - self.taken

    async def wait(self) -> Float32:
        """Every logit; raises `Unavailable` when the engine failed."""
        await self._done
        return self.logits

    async def wait_until(self, seconds: float) -> Float32:
        """What is computed within `seconds`: all, or NaN for the rest; raises `DeadlineExceeded` when it is nothing."""
        ended, _ = await asyncio.wait([self._done], timeout=None if math.isinf(seconds) else max(0.0, seconds))
        if ended:
            return await self.wait()
        logits = self.logits.copy()  # the worker may be at it
        if np.isnan(logits).all():
            raise DeadlineExceeded("the reranker did not answer in time; try again", retry_after_s=1)
        return logits

    def abandon(self) -> None:
        """Nobody waits any more: an error that comes later concerns nobody."""
        self._done.cancel()

    def deliver(self, start: int, logits: Float32) -> None:
        """From the worker's thread: the pairs from `start` on are computed."""
        self.logits[start : start + len(logits)] = logits
        self._computed += len(logits)
        if self._computed == len(self.pairs):
            self._tell(None)

    def fail(self, error: FathomError) -> None:
        """From the worker's thread: a pair cannot be computed."""
        self._tell(error)

    def _tell(self, error: FathomError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(self._settle, error)

    def _settle(self, error: FathomError | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


@dataclass(frozen=True, slots=True)
class Part:
    """The pairs `start` … `end` − 1 of a job, in one batch."""

    job: Job
    start: int
    end: int

    @property
    def pairs(self) -> Sequence[Pair]:
        """The pairs themselves."""
        return self.job.pairs[self.start : self.end]


class PairQueue:
    """Which pairs are next. Pure but for the time it is told; not thread-safe."""

    def __init__(self) -> None:
        self.waiting = 0  # pairs
        self._jobs: dict[str, list[Job]] = {}
        self._had: dict[str, int] = {}  # tokens that each tenant has had, in virtual time
        self._virtual = 0

    def put(self, job: Job) -> None:
        """Queue a job; a tenant that comes back has no credit for the time in which it asked nothing."""
        if job.tenant not in self._jobs:
            self._had[job.tenant] = max(self._had.get(job.tenant, 0), self._virtual)
        self._jobs.setdefault(job.tenant, []).append(job)
        self.waiting += job.left

    def leave(self, job: Job) -> None:
        """Forget what is left of a job; one that is not here is no error."""
        jobs = self._jobs.get(job.tenant, [])
        if job in jobs:
            jobs.remove(job)
            self.waiting -= job.left
        if not jobs:
            self._jobs.pop(job.tenant, None)
        self._rest()

    def take(self, budget_tokens: int, now: float) -> list[Part]:
        """The next batch: pairs of at most `budget_tokens` tokens together, or one; empty when nothing waits."""
        self._expire(now)
        begun: dict[Job, int] = {}
        size = 0
        while self._jobs:
            tenant = min(self._jobs, key=self._had.__getitem__)
            job = min(self._jobs[tenant], key=lambda each: (each.taken, each.left))
            tokens = tokens_of(job.pairs[job.taken])
            if begun and size + tokens > budget_tokens:
                break
            begun.setdefault(job, job.taken)
            size += tokens
            self._count(job, tokens)
        self._rest()
        return [Part(job, start, job.taken) for job, start in begun.items()]

    def _count(self, job: Job, tokens: int) -> None:
        self._virtual = max(self._virtual, self._had[job.tenant])
        self._had[job.tenant] += tokens
        job.taken += 1
        self.waiting -= 1
        if not job.left:
            jobs = self._jobs[job.tenant]
            jobs.remove(job)
            if not jobs:
                del self._jobs[job.tenant]

    def _expire(self, now: float) -> None:
        late = [job for jobs in self._jobs.values() for job in jobs if job.expires_at <= now]
        for job in late:
            self.leave(job)

    def _rest(self) -> None:
        """Tenants that are level with the virtual time say the same as tenants that are not known."""
        if not self._jobs:
            self._virtual = max(self._had.values(), default=0)
            self._had.clear()
            return
        idle = [name for name, had in self._had.items() if name not in self._jobs and had <= self._virtual]
        for name in idle:
            del self._had[name]


def tokens_of(pair: Pair) -> int:
    """Tokens of both texts, without special tokens."""
    return (len(pair[0]) + len(pair[1])) // TOKEN_BYTES


class PairBatcher:
    """The thread that feeds one model. `queue_pairs` bounds what waits; a single request always finds room when idle.

    `cost` learns how long batches take. Used from event loops; `close` lets the thread end once the queue is empty.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        budget_tokens: int,
        queue_pairs: int,
        meter: Meter,
        cost: ObservedCost | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._engine = engine
        self._budget = budget_tokens
        self._bound = queue_pairs
        self._meter = meter
        self._cost = cost
        self._clock = clock
        self._queue = PairQueue()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._work, name=f"fathom-rerank {name}", daemon=True).start()

    @contextlib.contextmanager
    def submitted(self, tenant: str, pairs: Sequence[Pair]) -> Iterator[Job]:
        """A job in the queue for the block: when the block ends, however it does, nobody computes for it any more.

        Raises `Overloaded` when too many pairs wait, `DeadlineExceeded` when no time is left.
        """
        job = Job(tenant, pairs, self._clock() + deadline.check())
        with self._changed:
            if self._queue.waiting and self._queue.waiting + len(pairs) > self._bound:
                raise Overloaded(f"too many pairs wait for the reranker {self._name}; retry later", retry_after_s=1)
            self._queue.put(job)
            self._changed.notify()
        try:
            yield job
        finally:
            job.abandon()
            with self._changed:
                self._queue.leave(job)

    @property
    def waiting(self) -> int:
        """Pairs in the queue now."""
        return self._queue.waiting

    def close(self) -> None:
        """Take no more; what waits is still computed."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _work(self) -> None:
        while (parts := self._next()) is not None:
            self._run(parts)

    def _next(self) -> list[Part] | None:
        with self._changed:
            while not (parts := self._queue.take(self._budget, self._clock())):
                if self._closed:
                    return None
                self._changed.wait()
            self._meter.queued(self._name, self._queue.waiting)
            return parts

    def _run(self, parts: Sequence[Part]) -> None:
        pairs = [pair for part in parts for pair in part.pairs]
        started = time.perf_counter()
        try:
            logits = self._engine.score(pairs)
        except Exception as error:  # noqa: BLE001 - the thread outlives whatever a request makes the engine raise
            self._failed(parts, error)
            return
        self._count([tokens_of(pair) for pair in pairs], (time.perf_counter() - started) * 1000)
        start = 0
        for part in parts:
            count = part.end - part.start
            part.job.deliver(part.start, logits[start : start + count])
            start += count

    def _count(self, tokens: Sequence[int], elapsed_ms: float) -> None:
        self._meter.batch(self._name, len(tokens), sum(tokens) / self._budget)
        if self._cost is not None:
            self._cost.note(tokens, elapsed_ms)

    def _failed(self, parts: Sequence[Part], error: Exception) -> None:
        """One request's pairs must not fail another's: a batch that failed is computed again, part by part."""
        if len(parts) > 1:
            for part in parts:
                self._run([part])
            return
        _log.error("the reranker %s failed", self._name, exc_info=error)
        # The engine's own words may quote what it was given: its type says enough.
        detail = f"the reranker {self._name} failed ({type(error).__name__}); try again, or run `fathom doctor`"
        parts[0].job.fail(error if isinstance(error, FathomError) else Unavailable(detail, retry_after_s=1))
