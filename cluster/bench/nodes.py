"""Several Ray nodes on one machine, each with a logical GPU, and a platform over them: S3, PostgreSQL, topology split.

What Ray reads from the environment has to stand before Ray is imported, so `run_inside` starts the servers and then a
process of its own; there `nodes` starts the nodes and deploys as `fathom up` does. Everything carries the platform's
mark and is gone when the outer process leaves, however the inner one ended.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_tasks

from cluster import processes
from cluster.bench.servers import S3Server, postgres, s3
from cluster.ingress import serve_environment
from cluster.platform import PlatformInfo, platform_settings, settings_path, write_record
from cluster.ports import choose_ports
from cluster.ray_head import driver_environment, head_environment
from services.settings import Ingest, Replicas, Settings, child_environment, load_settings
from tenants.errors import Unavailable
from tenants.secrets import load_or_create_secret

APPLICATION = "fathom"  # as cluster.deploy names it
DATA, DOCUMENTS = "fathom-data", "fathom-documents"
# Half a GPU each would let two retrievers share one node; 0.6 keeps them apart and leaves room for an encoder.
RETRIEVER_GPUS, ENCODER_GPUS = 0.6, 0.4
ON_NODES = ("database_url", "admin_key", "pepper")  # what a job finds on its node, as it may not travel with the job
NODE: Mapping[str, Any] = {"num_cpus": 4, "num_gpus": 1, "object_store_memory": 200 * 1024 * 1024}
GRACE_S = 3.0
POLL_S = 0.25


def run_inside(command: Sequence[str], **sizes: Replicas) -> int:
    """Start the servers, then `command DATA_DIR` with what it needs in its environment; gives its exit code.

    `sizes` are those of the deployments, by the names of the settings.
    """
    with s3() as store, postgres() as database, tempfile.TemporaryDirectory(prefix="fathom-nodes-") as data_dir:
        for bucket in (DATA, DOCUMENTS):
            store.create(bucket)
        info = _plan(data_dir)
        try:
            settings = platform_settings(_settings(info, database.url(), sizes), info)
            write_record(info)
            settings_path(info).write_text(settings.model_dump_json(), encoding="utf-8")
            environment = child_environment(_environment(info, settings, store))
            return subprocess.run([*command, data_dir], env=environment, check=False).returncode  # noqa: S603 - ours, word for word
        finally:
            processes.stop(info.id, grace_s=GRACE_S)
            shutil.rmtree(info.temp_dir, ignore_errors=True)


def _plan(data_dir: str) -> PlatformInfo:
    return PlatformInfo(
        id=secrets.token_hex(8),
        data_dir=data_dir,
        temp_dir=tempfile.mkdtemp(prefix="fathom-"),
        ports=choose_ports(0, asked=False),
        mlflow="off",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("fathom"),
    )


def _settings(info: PlatformInfo, database_url: str, sizes: Mapping[str, Replicas]) -> Settings:
    load_or_create_secret(Path(info.ray_token_path))
    replicas: dict[str, Any] = {"gateway": Replicas(min=2, max=2), **sizes}
    return Settings(
        data_dir=info.data_dir,
        data_root=f"s3://{DATA}/platform",
        database_url=database_url,
        mlflow_tracking_uri="off",
        topology="split",
        admin_key=f"fa_{secrets.token_hex(32)}",
        pepper=secrets.token_hex(32),
        encoder_gpus=ENCODER_GPUS,
        cpu_threads=1,
        ingest=Ingest(allow=(f"s3://{DOCUMENTS}/",)),
        **replicas,
    )


def _environment(info: PlatformInfo, settings: Settings, store: S3Server) -> dict[str, str]:
    """For Ray's nodes and the drivers alike. `RAY_TMPDIR` keeps other platforms from finding this cluster by itself."""
    return {
        **head_environment(info, serve_environment(info, settings)),
        **driver_environment(info),
        **store.environment,
        processes.MARK: info.id,
        **{f"FATHOM_{name.upper()}": str(getattr(settings, name)) for name in ON_NODES},
        "RAY_worker_niceness": "0",  # not behind everything else on this machine
        "RAY_TMPDIR": info.temp_dir,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }


class Nodes:
    """The nodes of one platform and what runs on them. Only inside the process that `run_inside` starts."""

    def __init__(self, info: PlatformInfo) -> None:
        self.info = info
        self.settings = load_settings(settings_path(info))
        self._cluster = Cluster()
        self._headers = {"Authorization": f"Bearer {Path(info.ray_token_path).read_text('utf-8').strip()}"}

    def start(self, count: int) -> None:
        """`count` nodes, the first of them the head; then the Serve application."""
        ports = self.info.ports
        Path(self.info.temp_dir, "ray").mkdir(exist_ok=True)  # where Ray notes the address of the newest cluster
        self._cluster.add_node(
            **NODE, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=ports.dashboard,
            gcs_server_port=ports.ray, metrics_export_port=ports.metrics, dashboard_agent_listen_port=ports.agent,
            temp_dir=self.info.temp_dir, include_log_monitor=False,
        )  # fmt: skip
        for _ in range(count - 1):
            self._cluster.add_node(**NODE)
        self._deploy()
        ray.init(address=self.info.ray_address, namespace=APPLICATION, log_to_driver=False)

    def _deploy(self) -> None:
        """In a process of its own, as `fathom up` does: Lance is not loaded where Ray forks its nodes."""
        command = [sys.executable, "-P", "-m", "cluster.deploy", str(settings_path(self.info))]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:  # noqa: S603 - ours, word for word
            raise Unavailable("the Serve application did not come up; its error stands above")

    def stop(self) -> None:
        """End every node."""
        ray.shutdown()
        self._cluster.shutdown()

    def replicas(self, deployment: str) -> list[str]:
        """The node of each running replica of a deployment."""
        return [str(replica["node_id"]) for replica in self._running(deployment)]

    def pids(self, deployment: str) -> list[int]:
        """The process of each running replica of a deployment."""
        return [int(replica["pid"]) for replica in self._running(deployment) if replica["pid"]]

    def _running(self, deployment: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.info.dashboard}/api/serve/applications/", headers=self._headers, timeout=30)
        answer.raise_for_status()
        found = answer.json()["applications"][APPLICATION]["deployments"][deployment]["replicas"]
        return [replica for replica in found if replica["state"] == "RUNNING"]

    def tasks(self, name: str) -> Counter[str]:
        """How many finished tasks with `name` in their names ran on each node, from Ray's own record of tasks."""
        tasks = list_tasks(address=self.info.dashboard, filters=[("state", "=", "FINISHED")], limit=10_000)
        return Counter(str(task.node_id) for task in tasks if name in task.name)

    def kill(self, node_id: str) -> int:
        """`kill -9` of everything on a worker node, as when its machine loses power; gives the number of processes."""
        node = next(node for node in self._cluster.worker_nodes if node.node_id == node_id)
        raylet = node.all_processes["raylet"][0].process.pid
        victims = [*_descendants(raylet), raylet]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        return len(victims)

    def workers(self) -> list[str]:
        """Ids of the nodes that may be killed."""
        return [str(node.node_id) for node in self._cluster.worker_nodes]

    def metrics(self) -> list[str]:
        """Every line of the Prometheus pages of the living nodes; one that died may be listed for some seconds more."""
        lines: list[str] = []
        for node in ray.nodes():
            with contextlib.suppress(httpx.TransportError):
                address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                lines += httpx.get(address, timeout=30).text.splitlines()
        return lines


@contextlib.contextmanager
def nodes(info: PlatformInfo, count: int) -> Iterator[Nodes]:
    """A running platform over `count` nodes."""
    running = Nodes(info)
    try:
        running.start(count)
        yield running
    finally:
        running.stop()


def wait_until(what: str, holds: Callable[[], bool], limit_s: float) -> float:
    """Seconds until `holds`; raises `Unavailable` after `limit_s`."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > limit_s:
            raise Unavailable(f"{what}: not within {limit_s:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic() - started


def _descendants(pid: int) -> list[int]:
    """Children first seen from above; a process that ends meanwhile has none."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in (thread / "children").read_text("utf-8").split()]
    return [each for child in found for each in (*_descendants(child), child)]
