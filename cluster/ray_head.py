"""The Ray head of one platform: its command, its environment, and what a driver needs to attach.

Everything listens on loopback and asks for the token. `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0` is what holds the
node to 127.0.0.1: on Linux `ray start --node-ip-address 127.0.0.1` quietly takes the machine's public address
instead (ray/_private/services.py, resolve_ip_for_localhost).
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.platform import PlatformInfo

MIB = 1024 * 1024
OBJECT_STORE_BYTES = 1024 * MIB
MIN_CPUS = 4  # logical: an index job needs slots for parsing, embedding and writing at once on the smallest machine


def driver_environment(info: PlatformInfo) -> dict[str, str]:
    """What Ray must find in the environment before a driver imports it."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": info.ray_token_path,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def head_environment(info: PlatformInfo, serve: Mapping[str, str]) -> dict[str, str]:
    """The driver's variables, the ports that Ray takes only from the environment, and Serve's own (`serve`)."""
    return {
        **driver_environment(info),
        "AUTOSCALER_METRIC_PORT": str(info.ports.autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(info.ports.dashboard_metrics),
        **serve,
    }


def head_command(info: PlatformInfo, engine_cpus: float = 0) -> list[str]:
    """`ray start --head --block`: its children share its fate, a kill -9 included.

    `engine_cpus` are promised to generators for good, on top of what jobs need.
    """
    ports = info.ports
    return [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        f"--port={ports.ray}",
        f"--ray-client-server-port={ports.ray_client}",
        f"--dashboard-agent-listen-port={ports.agent}",
        f"--metrics-export-port={ports.metrics}",
        "--include-dashboard=true",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={ports.dashboard}",
        f"--temp-dir={info.temp_dir}",
        f"--num-cpus={max(MIN_CPUS, os.cpu_count() or 1) + math.ceil(engine_cpus)}",
        f"--object-store-memory={object_store_bytes()}",
        "--include-log-monitor=false",
        "--disable-usage-stats",
    ]


def object_store_bytes() -> int:
    """1 GiB, or what half of /dev/shm holds when that is less: Ray falls back to the slow disk beyond it."""
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else OBJECT_STORE_BYTES  # noqa: S108
    return max(80 * MIB, min(OBJECT_STORE_BYTES, free // 2))
