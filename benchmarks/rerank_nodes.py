"""The large reranker on three nodes: 1 → 3 → 1 under load, a replica killed every five seconds, who still gets answers.

    python benchmarks/rerank_nodes.py [--seconds 60] [--model builtin-large]

The cluster is that of benchmarks/many_nodes.py: three Ray nodes on this machine, S3, PostgreSQL, topology split,
HAProxy. Prints JSON: how long the replicas took to come and to go, what the clients saw while replicas were killed
(`failed` were never answered, `degraded` were answered in the first stage's order and say so), and how long after the
last kill the first whole answer came. Latency says little here: everything shares the cores of one machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform as machine
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from benchmarks.many_nodes import LIMIT_S, NODES, Load, seen
from cluster.bench import corpus
from cluster.bench.nodes import Nodes, nodes, run_inside, wait_until
from cluster.bench.platform import UNLIMITED, Platform, Tenant
from cluster.platform import read_record
from services.settings import Replicas
from tenants.errors import FathomError

DEPLOYMENT = "RerankerLarge"
KILL_EVERY_S = 5.0
DOCUMENTS, BATCH = 300, 100
BUDGET_MS = 2_000  # three nodes share two cores: the default would be spent on waiting for a processor


def fill(tenant: Tenant) -> None:
    """Index by POST; 300 documents give every question a hundred candidates."""
    rows = list(corpus.documents(DOCUMENTS, seed=7))
    for start in range(0, DOCUMENTS, BATCH):
        documents = [{"id": row["id"], "text": row["text"]} for row in rows[start : start + BATCH]]
        _post(tenant, "documents", {"documents": documents}).raise_for_status()


def scale(cluster: Nodes, tenant: Tenant, texts: Sequence[str]) -> dict[str, Any]:
    """Replicas under load and after it; seconds from the load's start, and from its end."""
    load = Load(tenant, texts, concurrency=16, rerank="auto")
    before = len(cluster.replicas(DEPLOYMENT))
    load.start()
    up_s = wait_until("three rerankers", lambda: len(cluster.replicas(DEPLOYMENT)) == NODES, LIMIT_S)
    load.stop()
    down_s = wait_until("one reranker", lambda: len(cluster.replicas(DEPLOYMENT)) == 1, LIMIT_S)
    return {"replicas": [before, NODES, 1], "up_s": round(up_s, 1), "down_s": round(down_s, 1), "requests": seen(load)}


def kill(cluster: Nodes, tenant: Tenant, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """`kill -9` of one replica every five seconds, under load."""
    load = Load(tenant, texts, concurrency=8, rerank="auto")
    load.start()
    killed, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(KILL_EVERY_S)
        for pid in cluster.pids(DEPLOYMENT)[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    load.stop()
    numbers = iter(range(1_000_000))

    def whole() -> bool:
        answer = _post(tenant, "search", {"query": f"{texts[0]} {next(numbers)}"})
        return answer.status_code == httpx.codes.OK and not answer.json()["degraded"]

    recovered_s = wait_until("a whole answer", whole, LIMIT_S)
    requests = seen(load)
    answered = round(1 - requests["failed"] / max(1, requests["sent"]), 5)
    return {"killed": killed, "answered": answered, "recovered_s": round(recovered_s, 1), "requests": requests}


def measure(data_dir: str, model: str, seconds: float) -> dict[str, Any]:
    """Both phases on one platform."""
    info = read_record(data_dir)
    if info is None:
        raise FathomError(f"no platform is recorded on {data_dir}; run this without --inside")
    with nodes(info, NODES) as cluster:
        rerank = {"latency_budget_ms": BUDGET_MS, "price": 0, "max_depth": 20}
        platform = Platform(info.url, str(cluster.settings.admin_key), data_dir)
        tenant = platform.create("acme", {**UNLIMITED, "rerankers": {"large": model}, "rerank": rerank})
        fill(tenant)
        texts = corpus.questions(2_000, DOCUMENTS, seed=7)  # so many that the cache answers few of them
        _post(tenant, "search", {"query": texts[0]}).raise_for_status()
        return {"scale": scale(cluster, tenant, texts), "kill": kill(cluster, tenant, texts, seconds)}


def _post(tenant: Tenant, path: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {tenant.key}"}
    return httpx.post(f"{tenant.base}/{path}", json=body, headers=headers, timeout=120)


def main() -> int:
    """Start the servers and this file again inside of them, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of killing")
    parser.add_argument("--model", default="builtin-large", help="the large cross-encoder")
    parser.add_argument("--inside", metavar="DATA_DIR", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.rerank_nodes",
            f"--seconds={given.seconds}",
            f"--model={given.model}",
            "--inside",
        ]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
        return run_inside(command, reranker_large=Replicas(min=1, max=NODES, target_ongoing=2))
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)  # Ray's raylets speak there too, past sys.stdout
        report = measure(given.inside, given.model, given.seconds)
        about = {"machine": machine.machine(), "cores": os.cpu_count(), "python": machine.python_version()}
        print(json.dumps({**report, **about, "date": datetime.now(UTC).date().isoformat()}, indent=2), file=output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
