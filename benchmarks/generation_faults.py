"""What benchmarks/generation.py does to a generator: callers who leave, engines and replicas that are killed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

from benchmarks.generation_platform import Bench, cuts


async def cancels(bench: Bench, count: int) -> dict[str, Any]:
    """Streams that nobody reads to the end."""
    async with httpx.AsyncClient(timeout=600) as client:

        async def one() -> None:
            body = bench.body(stream=True, max_tokens=2_000)
            async with client.stream("POST", f"{bench.base}/query", json=body, headers=bench.headers) as answered:
                async for row in answered.aiter_lines():
                    if row.startswith("event: evidence"):
                        await asyncio.sleep(bench.chance.uniform(0, 0.3))
                        return

        async def settled() -> int | None:
            for _ in range(100):
                left = await bench.at_work(client)
                if left == 0:
                    break
                await asyncio.sleep(0.2)
            return left

        for _ in range(8):
            await one()
        await settled()
        before = _memory(bench)
        busiest = 0
        for start in range(0, count, 8):
            await asyncio.gather(*(one() for _ in range(min(8, count - start))))
            busiest = max(busiest, await bench.at_work(client) or 0)
        left = await settled()
    return {
        "cancelled": count,
        "most_at_work": busiest,
        "left_at_work": left,
        "mib_before": before,
        "mib_after": _memory(bench),
    }


def _memory(bench: Bench) -> int:
    """MiB of the engine and its replica."""
    found = [process for name in ("EngineCore", "Generator") for process in bench.processes(name)]
    return sum(int(process.memory_info().rss) for process in found) // 2**20


async def kills(bench: Bench, count: int) -> dict[str, Any]:
    """Engine or replica killed while four callers ask; waits for a new engine before the next kill."""
    outcomes = {"answered": 0, "degraded": 0, "clear_errors": 0, "silent": 0}
    stopped = asyncio.Event()
    recovered: list[float] = []
    killed: list[int] = []

    async def caller(client: httpx.AsyncClient, stream: bool) -> None:
        while not stopped.is_set():
            body = bench.body(max_tokens=400, stream=stream)
            try:
                answered = await client.post(f"{bench.base}/query", json=body, headers=bench.headers)
                text = answered.text
            except httpx.HTTPError:
                outcomes["silent"] += 1
                continue
            if answered.status_code != httpx.codes.OK:
                outcomes["clear_errors" if "urn:fathom:problem" in text else "silent"] += 1
            elif stream and "event: answer" not in text:
                outcomes["clear_errors" if "event: error" in text else "silent"] += 1
            else:
                outcomes[
                    "degraded" if '"generator_unavailable"' in text or "generator_timeout" in text else "answered"
                ] += 1
            await asyncio.sleep(0.05)

    async with httpx.AsyncClient(timeout=600) as client:
        callers = [asyncio.create_task(caller(client, stream=number % 2 == 0)) for number in range(4)]
        for number in range(count):
            await asyncio.sleep(bench.chance.uniform(0.5, 2.0))
            victims = bench.processes("EngineCore" if number % 2 == 0 else "ServeReplica:generator")
            for victim in victims:
                killed.append(victim.pid)
                victim.kill()
            began = time.monotonic()
            while not (await bench.at_work(client) is not None and _fresh(bench, killed)):
                await asyncio.sleep(0.5)
                if time.monotonic() - began > 300:
                    break
            recovered.append(time.monotonic() - began)
        stopped.set()
        await asyncio.gather(*callers)
        engines = bench.processes("EngineCore")
    return {
        "kills": count,
        **outcomes,
        "back_after_s": cuts(recovered, "s"),
        "engines": len(engines),
        "orphans": len(engines) - 1,
    }


def _fresh(bench: Bench, killed: list[int]) -> bool:
    engines = bench.processes("EngineCore")
    return bool(engines) and all(engine.pid not in killed for engine in engines)
