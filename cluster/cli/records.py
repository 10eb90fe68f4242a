"""Audit records as the CLI reads them: orders are redone here, chains verified beside the log, on this data dir."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cluster.cli.client import connect
from services.control_plane import open_control_plane
from services.settings import Settings
from tenants.database import Database


def read_record(settings: Settings, tenant: str, query_id: str) -> dict[str, Any]:
    """The record of one query. Raises `NotFound`."""
    return dict(connect(settings).tenant(tenant, "GET", f"queries/{query_id}"))


def replay_of(record: dict[str, Any]) -> dict[str, Any]:
    """`{identical, candidates, differences}`: the record's order, redone from its own facts."""
    from services.audit.replay import replay

    redone = replay(record)
    return {
        "identical": redone.identical,
        "candidates": len(redone.order),
        "differences": list(redone.differences),
    }


def verify_chain_of(settings: Settings, tenant: str) -> dict[str, Any]:
    """`{intact, writers, records, texts, texts_gone, faults}` over all of the tenant's records."""
    from services.audit.reading import AuditReader

    uid = open_control_plane(settings).get_tenant(tenant).uid
    report = AuditReader(Database(settings.audit_url)).verify_chain(uid)
    return {"intact": report.intact, **asdict(report)}
