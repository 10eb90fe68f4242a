"""Jobs as the CLI sees them: over HTTP when FATHOM_URL is set, else in this data dir's control plane.

A job's row is the same whether the driver ran in a shell, in the platform or on a cluster.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from cluster.cli.client import Client, connect
from cluster.cli.progress import shown
from services.control_plane import open_control_plane
from services.settings import Settings, setting_sources
from tenants.errors import InvalidInput
from tenants.records import FINISHED, JobRow
from tenants.store import Store

POLL_S = 0.5
ERRORS_SHOWN = 100


def list_jobs(settings: Settings, tenant: str) -> list[dict[str, Any]]:
    """The newest fifty, newest first."""
    if client := _remote(settings):
        return list(client.tenant(tenant, "GET", "jobs")["jobs"])
    store = open_control_plane(settings)
    rows, _ = store.list_jobs(store.get_tenant(tenant))
    return [_document(store, row, errors=False) for row in rows]


def read_job(settings: Settings, job_id: str, tenant: str | None) -> dict[str, Any]:
    """One job with its first hundred errors. Raises `NotFound`."""
    if client := _remote(settings):
        return dict(client.tenant(_named(tenant), "GET", f"jobs/{job_id}"))
    store = open_control_plane(settings)
    return _document(store, store.find_job(job_id), errors=True)


def cancel_job(settings: Settings, job_id: str, tenant: str | None) -> None:
    """Ask it to stop. Raises `Conflict` when it has ended."""
    if client := _remote(settings):
        client.tenant(_named(tenant), "POST", f"jobs/{job_id}/cancel")
        return
    store = open_control_plane(settings)
    row = store.find_job(job_id)
    store.request_cancel(store.tenant_by_uid(row.uid), row.job_id)


def follow_job(settings: Settings, job_id: str, tenant: str | None) -> dict[str, Any]:
    """Show its progress until it ended."""
    from jobs.indexing.job import Progress

    with shown(job_id) as show:
        while (found := read_job(settings, job_id, tenant))["state"] not in FINISHED:
            done = sum(found["documents"].values())
            show(Progress(found["stage"], done, 0, found["chunks"], found["rate"] or 0.0, found["eta_s"]))
            time.sleep(POLL_S)
    return found


def _remote(settings: Settings) -> Client | None:
    return connect(settings) if setting_sources()["url"] != "default" else None


def _named(tenant: str | None) -> str:
    if tenant is None:
        raise InvalidInput.field("/tenant", "over FATHOM_URL a job is found by its tenant too; add --tenant NAME")
    return tenant


def _document(store: Store, row: JobRow, *, errors: bool) -> dict[str, Any]:
    from services.gateway.routes.jobs import job_json

    found = store.list_job_errors(row.job_id, None, ERRORS_SHOWN)[0] if errors else []
    return {**job_json(row), "errors": [asdict(error) for error in found]}
