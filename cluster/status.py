"""What runs of one platform, component by component."""

from __future__ import annotations

from typing import Any

import httpx

from cluster import processes
from cluster.platform import PlatformInfo, read_record
from services.settings import Settings

TIMEOUT_S = 5.0


def running_platform(data_dir: str) -> PlatformInfo | None:
    """The platform on `data_dir` if it is up: it was ready once and its parts run. A busy one is up as well."""
    info = read_record(data_dir)
    return info if info and info.ready and is_running(info) else None


def is_running(info: PlatformInfo) -> bool:
    """Whether every process that `up` started itself is still there."""
    return bool(info.pids) and all(processes.is_member(pid, info.id) for pid in info.pids.values())


def is_ready(info: PlatformInfo) -> bool:
    """Whether /readyz answers 200."""
    return answer_status(info.url + "/readyz") == httpx.codes.OK


def is_answering(url: str) -> bool:
    """Whether anything speaks HTTP there."""
    return answer_status(url) is not None


def answer_status(url: str) -> int | None:
    """The HTTP status of a GET, None when nothing answers."""
    try:
        return httpx.get(url, timeout=TIMEOUT_S, trust_env=False).status_code
    except httpx.HTTPError:
        return None


def platform_status(settings: Settings) -> dict[str, Any]:
    """`{ready, url, data_dir, processes, rss_bytes, components: [{name, ready, version, detail, optional}]}`.

    `ready` is what is not optional; a platform that was never started is one that is not ready.
    """
    info = read_record(settings.data_dir)
    if info is None:
        return {"ready": False, "url": None, "data_dir": settings.data_dir, "components": [_part("platform", False)]}
    alive = processes.members(info.id)
    components = [*_gateway(info), _probe("ray", info.dashboard + "/api/version"), _probe("mlflow", info.mlflow)]
    return {
        "ready": all(part["ready"] or part["optional"] for part in components),
        "url": info.url,
        "data_dir": info.data_dir,
        "started_at": info.started_at,
        "processes": len(alive),
        "rss_bytes": sum(process.rss_bytes for process in alive),
        "components": components,
    }


def _gateway(info: PlatformInfo) -> list[dict[str, Any]]:
    """The components that /readyz lists, or the one fact that it does not answer."""
    try:
        answer = httpx.get(info.url + "/readyz", timeout=TIMEOUT_S, trust_env=False)
        listed = answer.json().get("components", [])
    except (httpx.HTTPError, ValueError):
        return [_part("gateway", False, detail="does not answer; see logs/ray.log, then `fathom up`")]
    parts = [
        _part(part["name"], part["ready"], part["version"], part.get("detail", ""), part.get("optional", False))
        for part in listed
    ]
    return parts or [_part("gateway", answer.status_code == httpx.codes.OK, info.version, info.url)]


def _probe(name: str, url: str) -> dict[str, Any]:
    if not url.startswith("http"):
        return _part(name, True, detail=url)
    try:
        answer = httpx.get(url, timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError:
        return _part(name, False, detail=f"{url} does not answer; run `fathom up`")
    return _part(name, answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR, detail=url)


def _part(name: str, ready: bool, version: str = "", detail: str = "", optional: bool = False) -> dict[str, Any]:
    return {"name": name, "ready": ready, "version": version, "detail": detail, "optional": optional}
