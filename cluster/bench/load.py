"""Load drivers: closed loop at a concurrency, open loop at a rate. Knows HTTP, not what it asks.

The open loop sends on schedule whether or not earlier answers are back, and counts time from the scheduled
moment, so a stall is not hidden by the client waiting for it (coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

AGAIN = frozenset({0, 503})
RETRY_AFTER_S = 1.0  # what the platform's refusals say in Retry-After


@dataclass(frozen=True, slots=True)
class Call:
    """One request: POST `body` to `url` with `key`; `group` tells tenants apart in the figures."""

    url: str
    key: str
    body: Mapping[str, Any]
    group: str = ""


@dataclass(slots=True)
class Sample:
    """What came back: `latency_ms` counts from the scheduled moment; `status` 0 = no answer at all.

    `refused` are the statuses of the attempts before the last one; `degraded` and `index_version` as the answer
    says them; `at` is the moment in `time.perf_counter` seconds that the last attempt counts from.
    """

    group: str
    latency_ms: float
    status: int
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    refused: tuple[int, ...] = ()
    degraded: tuple[str, ...] = ()
    index_version: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Latency percentiles in ms over the answered requests, rate in requests/s, answers by status."""

    requests: int
    errors: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    statuses: Mapping[str, int]
    stages_ms: Mapping[str, float]


def figures(samples: Sequence[Sample], seconds: float) -> Figures:
    """Summarise; the stages are means of what the answers' `timings_ms` said."""
    good = [sample for sample in samples if sample.status == 200]
    p50, p95, p99 = (float(v) for v in np.percentile([s.latency_ms for s in good] or [float("nan")], [50, 95, 99]))
    stages = sorted({name for sample in good for name in sample.timings_ms})
    return Figures(
        requests=len(samples),
        errors=len(samples) - len(good),
        per_second=len(good) / max(seconds, 1e-9),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        statuses=dict(Counter(str(sample.status) for sample in samples)),
        stages_ms={name: float(np.mean([s.timings_ms.get(name, 0.0) for s in good])) for name in stages},
    )


async def closed_loop(calls: Iterable[Call], concurrency: int, retries: int = 0) -> tuple[list[Sample], float]:
    """Send every call, `concurrency` at a time; returns the samples and the seconds it took.

    A client that is told to come back (503, or no answer at all) does so up to `retries` times, a second later.
    """
    queue: Iterator[Call] = iter(calls)
    samples: list[Sample] = []
    async with _session(concurrency) as session:

        async def worker() -> None:
            samples.extend([await _send_again(session, call, retries) for call in queue])

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return samples, time.perf_counter() - started


async def open_loop(calls: Sequence[Call], per_second: float, max_in_flight: int = 2048) -> tuple[list[Sample], float]:
    """Send call i at i / `per_second` seconds, whatever happened to the earlier ones."""
    async with _session(max_in_flight) as session:
        started = time.perf_counter()

        async def at(index: int, call: Call) -> Sample:
            due = started + index / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            return await _send(session, call, due)

        samples = await asyncio.gather(*(at(index, call) for index, call in enumerate(calls)))
        return list(samples), time.perf_counter() - started


def _session(connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), timeout=aiohttp.ClientTimeout(total=60)
    )


async def _send_again(session: aiohttp.ClientSession, call: Call, retries: int) -> Sample:
    started = time.perf_counter()
    refused: tuple[int, ...] = ()
    sample = await _send(session, call, started)
    while sample.status in AGAIN and len(refused) < retries:
        refused = (*refused, sample.status)
        await asyncio.sleep(RETRY_AFTER_S)
        sample = await _send(session, call, started)
        sample.refused = refused
    return sample


async def _send(session: aiohttp.ClientSession, call: Call, due: float) -> Sample:
    try:
        async with session.post(call.url, json=call.body, headers={"Authorization": f"Bearer {call.key}"}) as response:
            body = await response.json(content_type=None)
            said = body if response.status == 200 else {}
            sample = Sample(call.group, (time.perf_counter() - due) * 1000, response.status, said.get("timings_ms", {}))
            sample.degraded = tuple(said.get("degraded", ()))
            sample.index_version, sample.at = said.get("index_version") or 0, due
            return sample
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return Sample(call.group, (time.perf_counter() - due) * 1000, 0)
