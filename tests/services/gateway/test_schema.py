"""Every answer fits /openapi.json, whatever is sent (`benchmarks/fuzz_api.py` asks 5,000 times)."""

from __future__ import annotations

import asyncio
import warnings

from schemathesis.openapi import from_asgi

from benchmarks.fuzz_api import fuzz


async def test_no_answer_leaves_the_schema_and_none_is_a_fault(world) -> None:
    world.tenant("acme")
    await world.put("acme", world.operator, a="Paris is the capital of France.")
    headers = {"tenant": world.operator, "operator": world.operator}

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # schemathesis and its test client warn about themselves
            return fuzz(from_asgi("/openapi.json", world.client._transport.app), "acme", headers, 360)

    report = await asyncio.to_thread(run)
    assert report.faults == []
    assert report.cases >= 250
    assert report.statuses[200] > 0
