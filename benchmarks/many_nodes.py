"""Many nodes on one machine: an index job spread over them, a Retriever that scales, a node killed under load.

    python benchmarks/many_nodes.py [--quick] [--documents 6144]

Three Ray nodes with a logical GPU each (`ray.cluster_utils.Cluster`), the data root on an S3 server (moto), the control
plane in PostgreSQL, topology split, HAProxy on the head. Prints JSON: on which nodes the shards were embedded, how the
Retriever went 1 → 3 → 1, and what the clients of a killed node saw. `--quick` leaves the scaling out; the tests run it.
Figures of latency say little here: three nodes, two servers and the clients share the cores of one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform as machine
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from cluster.bench import corpus
from cluster.bench.load import Call, Sample, closed_loop, figures
from cluster.bench.nodes import DOCUMENTS, RETRIEVER_GPUS, Nodes, nodes, run_inside, wait_until
from cluster.bench.platform import Platform, Tenant
from cluster.platform import read_record
from services.settings import Replicas
from tenants.corpus.objects import open_objects
from tenants.errors import FathomError

NODES = 3
EMBED_TASK = "(_EmbedAndWrite)).submit"  # as Ray Data names the calls of the encoders' actors
LIMIT_S = 600.0
WARM_S, AFTER_S = 3.0, 12.0


class Load(threading.Thread):
    """Clients that ask one question after another until told to stop, each trying once more when refused."""

    def __init__(self, tenant: Tenant, texts: Sequence[str], concurrency: int, rerank: str = "never") -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.seconds = 0.0
        self._calls = [tenant.search(text, rerank=rerank) for text in texts]
        self._concurrency = concurrency
        self._over = threading.Event()

    def run(self) -> None:
        """See `threading.Thread`."""
        self.samples, self.seconds = asyncio.run(closed_loop(self._endless(), self._concurrency, retries=1))

    def stop(self) -> None:
        """Let the last answers come in."""
        self._over.set()
        self.join()

    def _endless(self) -> Iterator[Call]:
        number = 0
        while not self._over.is_set():
            yield self._calls[number % len(self._calls)]
            number += 1


def index(cluster: Nodes, tenant: Tenant, documents: int) -> dict[str, Any]:
    """Index JSONL from S3 through `POST …/jobs`; where its shards were embedded."""
    lines = "".join(json.dumps(row) + "\n" for row in corpus.documents(documents, seed=7))
    open_objects(f"s3://{DOCUMENTS}/corpus").put("documents.jsonl", lines.encode())
    headers = {"Authorization": f"Bearer {tenant.key}"}
    started = time.monotonic()
    body = {"sources": [f"s3://{DOCUMENTS}/corpus/"]}
    answer = httpx.post(f"{tenant.base}/jobs", json=body, headers=headers, timeout=60)
    answer.raise_for_status()
    address = f"{tenant.base}/jobs/{answer.json()['job_id']}"
    job: dict[str, Any] = {}

    def ended() -> bool:
        job.update(httpx.get(address, headers=headers, timeout=60).json())
        return job["state"] not in ("queued", "running")

    wait_until("the index job", ended, LIMIT_S)
    if job["state"] != "succeeded":
        raise FathomError(f"the index job {job['state']}: {job['error']}")
    shards = cluster.tasks(EMBED_TASK)
    return {
        "documents": job["documents"]["new"],
        "chunks": job["chunks"],
        "seconds": round(time.monotonic() - started, 1),
        "nodes": len(shards),
        "shards_by_node": sorted(shards.values(), reverse=True),
    }


def scale(cluster: Nodes, tenant: Tenant, texts: Sequence[str]) -> dict[str, Any]:
    """Retriever replicas under load and after it; seconds from the load's start, and from its end."""
    load = Load(tenant, texts, concurrency=32)
    before = len(cluster.replicas("Retriever"))
    load.start()
    up_s = wait_until("three retrievers", lambda: len(cluster.replicas("Retriever")) == NODES, LIMIT_S)
    most = len(set(cluster.replicas("Retriever")))
    load.stop()
    down_s = wait_until("one retriever", lambda: len(cluster.replicas("Retriever")) == 1, LIMIT_S)
    return {
        "replicas": [before, NODES, 1],
        "nodes_at_most": most,
        "up_s": round(up_s, 1),
        "down_s": round(down_s, 1),
        "requests": seen(load),
    }


def kill(cluster: Nodes, tenant: Tenant, texts: Sequence[str]) -> dict[str, Any]:
    """`kill -9` of a node with a Retriever on it, and with a Gateway too where there is one, under load."""
    load = Load(tenant, texts, concurrency=8)
    load.start()
    time.sleep(WARM_S)
    hosted = {name: cluster.replicas(name) for name in ("Gateway", "Retriever", "Indexer")}
    ours = [node for node in cluster.workers() if any(node in where for where in hosted.values())]
    victim = max(ours, key=lambda node: [node in hosted["Retriever"], node in hosted["Gateway"]])
    lost = {name: where.count(victim) for name, where in hosted.items()}
    killed = cluster.kill(victim)

    wanted = {name: len(where) for name, where in hosted.items()}
    wanted["Retriever"] = min(wanted["Retriever"], 1 + len(cluster.workers()))  # one a GPU, and there is one GPU fewer

    def whole() -> bool:
        return all(sum(node != victim for node in cluster.replicas(name)) >= n for name, n in wanted.items())

    recovered_s = wait_until("the replicas of the killed node elsewhere", whole, LIMIT_S)
    time.sleep(AFTER_S)
    load.stop()
    return {"processes": killed, "replicas_lost": lost, "recovered_s": round(recovered_s, 1), "requests": seen(load)}


def seen(load: Load) -> dict[str, Any]:
    """What the clients saw; `refused` counts first attempts by status, `failed` requests never answered."""
    samples = load.samples
    known = figures(samples, load.seconds)
    return {
        "sent": known.requests,
        "failed": known.errors,
        "statuses": known.statuses,
        "refused": dict(Counter(str(status) for sample in samples for status in sample.refused)),
        "degraded": dict(Counter(word for sample in samples for word in sample.degraded)),
        "per_second": round(known.per_second, 1),
        "p50_ms": round(known.p50_ms, 1),
        "p99_ms": round(known.p99_ms, 1),
    }


def exported(cluster: Nodes, tenant: str) -> dict[str, Any]:
    """What the nodes' Prometheus pages say of `tenant`: its requests, and the stages with a time."""
    found: dict[str, Any] = {}

    def complete() -> bool:
        lines = [line for line in cluster.metrics() if f'tenant="{tenant}"' in line]
        counts = [line for line in lines if line.startswith("ray_fathom_requests_total")]
        stages = {line.split('stage="')[1].split('"')[0] for line in lines if "fathom_stage_seconds_count" in line}
        found.update(requests=sum(float(line.rsplit(" ", 1)[1]) for line in counts), stages=sorted(stages))
        return bool(counts and {"embed", "search"} <= stages)

    wait_until(f"metrics of {tenant}", complete, 60)
    return found


def measure(data_dir: str, documents: int, *, quick: bool) -> dict[str, Any]:
    """All phases on one platform."""
    info = read_record(data_dir)
    if info is None:
        raise FathomError(f"no platform is recorded on {data_dir}; run this without --inside")
    started = time.monotonic()
    with nodes(info, NODES) as cluster:
        up_s = round(time.monotonic() - started, 1)
        platform = Platform(info.url, str(cluster.settings.admin_key), data_dir)
        tenant = platform.create("acme")
        texts = corpus.questions(200, documents, seed=7)
        report: dict[str, Any] = {"start_s": up_s, "index": index(cluster, tenant, documents)}
        report |= {} if quick else {"scale": scale(cluster, tenant, texts)}
        return report | {"kill": kill(cluster, tenant, texts), "metrics": exported(cluster, tenant.name)}


def main() -> int:
    """Start the servers and this file again inside of them, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two retrievers all the time: no scaling")
    parser.add_argument("--documents", type=int, default=6_144, help="256 of them are a shard")
    parser.add_argument("--inside", metavar="DATA_DIR", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is None:
        fewest = 2 if given.quick else 1
        retriever = Replicas(min=fewest, max=2 if given.quick else NODES, gpus=RETRIEVER_GPUS, target_ongoing=2)
        flags = [f"--documents={given.documents}", *(["--quick"] if given.quick else [])]
        command = [sys.executable, __file__, *flags, "--inside"]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
        return run_inside(command, retriever=retriever)
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)  # Ray's raylets speak there too, past sys.stdout
        report = measure(given.inside, given.documents, quick=given.quick)
        about = {"machine": machine.machine(), "cores": os.cpu_count(), "python": machine.python_version()}
        print(json.dumps({**report, **about, "date": datetime.now(UTC).date().isoformat()}, indent=2), file=output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
