"""`fathom bench search`: latency and rate of searches over synthetic corpora on this machine.

Two shapes: one tenant with all chunks, and many tenants with few chunks each. Every question is asked once, so
no cache can answer it; a warm-up of its own questions comes first.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from cluster.bench import corpus
from cluster.bench.load import Call, closed_loop, figures
from cluster.bench.platform import Platform, Tenant

SEED = 20_26


def bench_search(
    platform: Platform,
    *,
    tenants: int,
    chunks: int,
    concurrency: Sequence[int],
    requests: int,
    rerank: str = "never",
    keep: bool = False,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """`tenants` tenants of `chunks` chunks each; returns one entry of figures per concurrency.

    `keep` leaves the tenants with their corpora, and finds them again: the next run only asks.
    """
    names = [f"bench-{chunks}-{number:03d}" for number in range(tenants)]  # kept corpora of other sizes stay apart
    with platform.tenants(names, keep=keep) as made:
        for number, tenant in enumerate(made):
            if keep and platform.chunks(tenant.name) == chunks:
                continue
            report(f"indexing {tenant.name}: {chunks} chunks ({number + 1}/{tenants})")
            platform.index_documents(tenant.name, list(corpus.documents(chunks, SEED + number)))
        warm, *loads = _questions(made, chunks, [max(100, 2 * tenants), *(requests for _ in concurrency)], rerank)
        asyncio.run(closed_loop(warm, 4))
        return {
            "tenants": tenants,
            "chunks_per_tenant": chunks,
            "rerank": rerank,
            "runs": {str(level): _run(calls, level) for level, calls in zip(concurrency, loads, strict=True)},
        }


def _run(calls: Sequence[Call], concurrency: int) -> dict[str, Any]:
    samples, seconds = asyncio.run(closed_loop(calls, concurrency))
    return dataclasses.asdict(figures(samples, seconds))


def _questions(made: Sequence[Tenant], chunks: int, sizes: Sequence[int], rerank: str) -> list[list[Call]]:
    """Disjoint lists of calls of the given sizes, round robin over the tenants."""
    each = -(-sum(sizes) // len(made))
    texts = [iter(corpus.questions(each, chunks, SEED + number)) for number in range(len(made))]
    stream = (
        tenant.search(next(text), rerank=rerank) for tenant, text in itertools.cycle(zip(made, texts, strict=True))
    )
    return [list(itertools.islice(stream, size)) for size in sizes]
