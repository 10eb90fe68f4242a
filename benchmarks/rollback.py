"""Rolling back under load: how long until every answer comes from the other version, and what the askers notice.

    python benchmarks/rollback.py [--rollbacks 10] [--chunks 5000] [--concurrency 8]

Needs a running platform. A tenant gets two versions of its index; while `concurrency` clients search without pause,
the index goes back and forth between them. A rollback is counted from the request to the last moment at which a
search began that the old version answered, and at least to the reply. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from cluster.bench import corpus
from cluster.bench.load import Call, Sample, closed_loop, figures
from cluster.bench.platform import Platform, Tenant, running_platform

NAME = "rollback"
SEED = 7
QUESTIONS = 2_000
BETWEEN_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Flip:
    """One rollback: to which version, its request and its reply in `time.perf_counter` seconds."""

    to: int
    asked: float
    answered: float

    def seconds(self, samples: list[Sample], until: float) -> float:
        """From the request until no search that begins is answered by another version any more."""
        late = [one.at for one in samples if self.asked <= one.at < until and one.index_version not in (0, self.to)]
        return max([self.answered, *late]) - self.asked


def questions(tenant: Tenant, chunks: int, ended: asyncio.Event) -> Iterator[Call]:
    """Searches without end until `ended`."""
    texts = itertools.cycle(corpus.questions(QUESTIONS, chunks, SEED))
    for number, text in enumerate(texts):
        if ended.is_set():
            return
        yield tenant.search(f"{text} {number}", rerank="never")


async def flips(tenant: Tenant, versions: tuple[int, int], count: int, ended: asyncio.Event) -> list[Flip]:
    """`count` rollbacks, to either version in turn."""
    done = []
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {tenant.key}"}, timeout=60) as client:
        for to in itertools.islice(itertools.cycle(versions), count):
            await asyncio.sleep(BETWEEN_S)
            asked = time.perf_counter()
            (await client.post(f"{tenant.base}/rollback", json={"to": to})).raise_for_status()
            done.append(Flip(to, asked, time.perf_counter()))
    await asyncio.sleep(BETWEEN_S)
    ended.set()
    return done


async def under_load(tenant: Tenant, versions: tuple[int, int], given: argparse.Namespace) -> dict[str, Any]:
    """Searches and rollbacks at the same time."""
    ended = asyncio.Event()
    await closed_loop(itertools.islice(questions(tenant, given.chunks, ended), 200), 4)
    load = closed_loop(questions(tenant, given.chunks, ended), given.concurrency)
    (samples, seconds), done = await asyncio.gather(load, flips(tenant, versions, given.rollbacks, ended))
    ends = [*(flip.asked for flip in done[1:]), float("inf")]
    took = [flip.seconds(samples, end) for flip, end in zip(done, ends, strict=True)]
    return {
        "rollbacks": len(took),
        "longest_s": round(max(took), 3),
        "mean_s": round(sum(took) / len(took), 3),
        "searches": dataclasses.asdict(figures(samples, seconds)),
        "answers_by_version": {str(one): sum(s.index_version == one for s in samples) for one in versions},
    }


def run(platform: Platform, given: argparse.Namespace) -> dict[str, Any]:
    """Two versions, one in a hundred documents changed, then the load."""
    documents = list(corpus.documents(given.chunks, SEED))
    changed = [
        row | {"text": f"Changed. {row['text']}"} if place % 100 == 0 else row for place, row in enumerate(documents)
    ]
    with platform.tenants([NAME]) as (tenant,), tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "documents.jsonl"  # one place: another root could not take over its documents
        versions = []
        for rows in (documents, changed):
            source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            versions.append(int(platform.index(NAME, source)["index_version"]))
        report = asyncio.run(under_load(tenant, (versions[0], versions[1]), given))
    return {**report, "chunks": given.chunks, "cores": os.cpu_count(), "date": datetime.now(UTC).date().isoformat()}


def main() -> None:
    """Parse the arguments and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollbacks", type=int, default=10)
    parser.add_argument("--chunks", type=int, default=5_000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--data-dir", default=None)
    given = parser.parse_args()
    print(json.dumps(run(running_platform(given.data_dir), given), indent=1))


if __name__ == "__main__":
    main()
