"""A tenant's published versions, and what changes which one is read: through the platform's HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.cli.client import connect
from services.settings import Settings


def list_versions(settings: Settings, tenant: str) -> dict[str, Any]:
    """`{"versions": [...]}`, newest first."""
    return dict(connect(settings).tenant(tenant, "GET", "versions"))


def roll_back(settings: Settings, tenant: str, to: int | None) -> dict[str, Any]:
    """`{"index_version"}` that is now read. Raises `Conflict` for a version that holds erased documents."""
    return dict(connect(settings).tenant(tenant, "POST", "rollback", {} if to is None else {"to": to}))


def erase_documents(settings: Settings, tenant: str, documents: Sequence[str]) -> dict[str, Any]:
    """`{"erased", "index_version"}`."""
    return dict(connect(settings).tenant(tenant, "POST", "erase", {"documents": list(documents)}))
