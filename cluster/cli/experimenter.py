"""The operator's two hands on experiments: over HTTP when a platform answers, else on the data dir's own stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cluster.cli.client import Client, try_connect
from services.gateway.ports import Desk
from services.settings import Settings
from tenants.database import Database


def experimenter(settings: Settings) -> Desk:
    """HTTP when FATHOM_URL is set or a platform runs on the data dir, else the local stores."""
    client = try_connect(settings)
    return HttpDesk(client) if client else local_desk(settings)


def local_desk(settings: Settings) -> Desk:
    """On the data dir, without a running platform."""
    from jobs.experiments.desk import open_desk
    from services.audit.log import open_audit_log
    from services.audit.reading import AuditReader
    from services.control_plane import open_control_plane

    log = open_audit_log(settings.audit_url)
    return open_desk(settings, open_control_plane(settings), AuditReader(Database(settings.audit_url)), log)


class HttpDesk:
    """Through `/admin/v1/experiments`; see `ports.Desk`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, raw: object, actor: str, *, dry_run: bool = False) -> Mapping[str, Any]:
        """See `ports.Desk`."""
        return dict(self._client.call("POST", _path(), raw, dry_run="true" if dry_run else None))

    def experiments(self) -> Sequence[Mapping[str, Any]]:
        """See `ports.Desk`."""
        return list(self._client.call("GET", _path())["experiments"])

    def show(self, name: str) -> Mapping[str, Any]:
        """See `ports.Desk`."""
        return dict(self._client.call("GET", _path(name)))

    def set_ramp(self, name: str, ramp: float, actor: str) -> Mapping[str, Any]:
        """See `ports.Desk`."""
        return dict(self._client.call("PATCH", _path(name), {"ramp": ramp}))

    def stop(self, name: str, actor: str, why: str = "") -> Mapping[str, Any]:
        """See `ports.Desk`."""
        return dict(self._client.call("POST", _path(name, "stop"), {"why": why}))

    def promote(self, name: str, actor: str, arm: str | None = None) -> Mapping[str, Any]:
        """See `ports.Desk`."""
        return dict(self._client.call("POST", _path(name, "promote"), {"arm": arm} if arm else {}))

    def rollback(self, name: str, actor: str) -> Mapping[str, Any]:
        """See `ports.Desk`."""
        return dict(self._client.call("POST", _path(name, "rollback")))

    def delete(self, name: str) -> Mapping[str, Any]:
        """See `ports.Desk`."""
        return dict(self._client.call("DELETE", _path(name)))

    def look(self) -> None:
        """The platform looks by itself."""


def _path(*rest: str) -> str:
    return "/".join(["/admin/v1/experiments", *(quote(part, safe="") for part in rest)])
