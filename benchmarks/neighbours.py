"""Noisy neighbour: one tenant floods at 50 times its share; what the others feel.

    python benchmarks/neighbours.py [--victims 9] [--rate 2] [--seconds 30]

Needs a running platform. Every victim asks `rate` questions a second on schedule (open loop), first alone, then
while another tenant sends 50 times a victim's rate from a process of its own. Prints the victims' p99 both times,
their ratio, and the rejected requests of each side. The flood's own rejections (429, 503) are what the fairness is for.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from cluster.bench import corpus
from cluster.bench.load import Call, Sample, closed_loop, figures, open_loop
from cluster.bench.platform import Platform, Tenant, running_platform

FLOOD = 50
CHUNKS = 500


def schedule(tenants: Sequence[Tenant], each: int, seed: int) -> list[Call]:
    """`each` searches per tenant, round robin, no question twice."""
    texts = [corpus.questions(each, CHUNKS, seed + number) for number in range(len(tenants))]
    turns = itertools.product(range(each), range(len(tenants)))
    return [tenants[who].search(texts[who][turn], rerank="never") for turn, who in turns]


def sent(calls: Sequence[Call], rate: float) -> list[Sample]:
    """An open loop of its own."""
    return asyncio.run(open_loop(calls, rate))[0]


def together(
    calm: Sequence[Call], rate: float, flood: Sequence[Call], flood_rate: float
) -> tuple[list[Sample], list[Sample]]:
    """Both schedules at the same time: the flood must not hold up the event loop that times the others."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(sent, (), 1.0).result()  # started and imported
        loud = pool.submit(sent, flood, flood_rate)
        return sent(calm, rate), loud.result()


def run(platform: Platform, victims: int, rate: float, seconds: float) -> dict[str, Any]:
    """Baseline, then flood; victims' latency is counted from the scheduled moment."""
    names = [f"neighbour-{number:02d}" for number in range(victims + 1)]
    with platform.tenants(names) as made:
        for number, tenant in enumerate(made):
            platform.index_documents(tenant.name, list(corpus.documents(CHUNKS, number)))
        flooder, others = made[0], made[1:]
        each = int(rate * seconds)
        asyncio.run(closed_loop(schedule(made, 10, 100), 4))
        quiet, took = asyncio.run(open_loop(schedule(others, each, 200), rate * victims))
        calls, flood = schedule(others, each, 300), schedule([flooder], FLOOD * each, 400)
        noisy, loud = together(calls, rate * victims, flood, rate * FLOOD)
    baseline, flooded = figures(quiet, took), figures(noisy, seconds)
    return {
        "victims_alone": dataclasses.asdict(baseline),
        "victims_flooded": dataclasses.asdict(flooded),
        "p99_ratio": flooded.p99_ms / baseline.p99_ms,
        "victim_rejections": flooded.errors,
        "flood": dataclasses.asdict(figures(loud, seconds)),
    }


def main() -> None:
    """Parse the arguments and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victims", type=int, default=9)
    parser.add_argument("--rate", type=float, default=2.0, help="questions per second and victim")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--data-dir", default=None)
    given = parser.parse_args()
    print(json.dumps(run(running_platform(given.data_dir), given.victims, given.rate, given.seconds), indent=2))


if __name__ == "__main__":
    main()
