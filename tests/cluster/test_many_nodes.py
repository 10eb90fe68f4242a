"""Three Ray nodes, S3, PostgreSQL: the job spreads, a killed node costs nobody an answer, and the metrics are there.

The short form of `benchmarks/many_nodes.py`, in a process of its own: what Ray reads from the environment must stand
before it is imported, and the nodes die with that process.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.bench.servers import postgres_binaries

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.postgres, pytest.mark.timeout(1_500)]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    if importlib.util.find_spec("moto") is None:
        pytest.skip("no S3 server is installed: pip install -e .[dev]")
    command = [sys.executable, str(ROOT / "benchmarks" / "many_nodes.py"), "--quick", "--documents=1536"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            output, errors = run.communicate(timeout=1_400)
        finally:
            run.terminate()  # it stops its servers and nodes itself
    assert run.returncode == 0, errors[-4_000:]
    return json.loads(output)


def test_shards_of_one_job_are_embedded_on_several_nodes(report):
    assert report["index"]["nodes"] >= 2
    assert report["index"]["chunks"] == report["index"]["documents"] == sum(report["index"]["shards_by_node"]) * 256


def test_a_node_killed_under_load_fails_no_request_after_one_retry(report):
    requests = report["kill"]["requests"]
    assert report["kill"]["replicas_lost"]["Retriever"] == 1
    assert requests["sent"] > 0
    assert requests["failed"] == 0, requests
    assert set(requests["statuses"]) == {"200"}
    assert requests["degraded"] == {}


def test_metrics_per_tenant_and_stage_are_exported(report):
    assert report["metrics"]["requests"] > 0
    assert {"embed", "search", "fuse", "audit", "total"} <= set(report["metrics"]["stages"])
