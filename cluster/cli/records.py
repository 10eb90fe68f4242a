"""Audit records as the CLI reads them; the chain is verified beside the log, on this data dir."""

from __future__ import annotations

from typing import Any

from cluster.cli.client import connect
from services.control_plane import open_control_plane
from services.settings import Settings


def read_record(settings: Settings, tenant: str, query_id: str) -> dict[str, Any]:
    """The record of one query. Raises `NotFound`."""
    return dict(connect(settings).tenant(tenant, "GET", f"queries/{query_id}"))


def verify_chain_of(settings: Settings, tenant: str) -> dict[str, Any]:
    """`{"intact", "records", "faults"}` over every record of the tenant, from the first to the last."""
    from services.audit.log import open_audit_log

    uid = open_control_plane(settings).get_tenant(tenant).uid
    log = open_audit_log(settings.audit_url)
    return log.verify_chain(uid)
