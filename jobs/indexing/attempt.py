"""One attempt at a job: whether its row lets it begin, whether it may go on, and how the row ends. Ray-free."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jobs.indexing.job import IndexJob
from jobs.indexing.source import Listed
from tenants.errors import Cancelled, Conflict, FathomError, NotFound
from tenants.ids import job_id
from tenants.records import FINISHED, JobRow, Tenant
from tenants.scope import TenantScope
from tenants.store import Store

CHECK_EVERY_S = 1.0


def check_submitted(store: Store, tenant: Tenant, identity: str) -> None:
    """A job that the gateway queued runs once, for the tenant that asked: not for a later one of the same name.

    Raises `NotFound` when this tenant has no such job, `Conflict` when the job has ended or the tenant is not active.
    """
    row = store.get_job(tenant, job_id(identity))
    if row.state in FINISHED:
        raise Conflict(f"job {row.job_id} has {_ended(row)} before it started; submit a new one")
    if tenant.state != "active":
        raise Conflict(f"tenant {tenant.name} is {tenant.state}; its jobs run when it is active")


def check_begins(row: JobRow) -> None:
    """Raises `Conflict` for a job that was cancelled or given up while it waited: there is no work to resume."""
    if row.started_at is None and row.state in ("cancelled", "failed"):
        raise Conflict(f"job {row.job_id} has {_ended(row)} before it started; start a new one")


def check_goes_on(store: Store, scope: TenantScope, identity: str) -> None:
    """Raises `Cancelled` when somebody asked for it, or the tenant is deleted or about to be."""
    try:
        store.check_open(scope)
        cancelled = store.cancel_requested(identity)
    except NotFound:
        raise Cancelled("the tenant was deleted, and the job with it") from None
    if cancelled:
        raise Cancelled("the job was cancelled; resume it by its id to go on")


def watched(listed: Iterable[Listed], store: Store, scope: TenantScope, identity: str) -> Iterator[Listed]:
    """The listing, `check_goes_on` now and then: a long one ends early as well."""
    due = time.perf_counter()
    for item in listed:
        if time.perf_counter() >= due:
            check_goes_on(store, scope, identity)
            due = time.perf_counter() + CHECK_EVERY_S
        yield item


def row_of(job: IndexJob, scope: TenantScope, store: Store) -> JobRow | None:
    """The row that the job has already. Raises `Conflict` when it stands for other work."""
    try:
        store.get_job(scope, job.job_id)
    except NotFound:
        return None
    return store.create_job(scope, job.job_id, job.spec())


@contextmanager
def running_row(store: Store, row: JobRow) -> Iterator[dict[str, Any]]:
    """Mark the row as running; it ends with the fields that the block puts into the yielded dict, or with its error."""
    if row.state != "queued":
        store.restart_job(row.job_id)
    store.update_job(row.job_id, state="running", stage="list")
    ending: dict[str, Any] = {"state": "failed", "error": "the job's driver stopped; resume the job by its id"}
    done: dict[str, Any] = {}
    try:
        yield done
        ending = done
    except (Cancelled, KeyboardInterrupt):
        ending = {"state": "cancelled", "error": None}
        raise
    except FathomError as error:
        ending = {"state": "failed", "error": error.detail}
        raise
    finally:
        with suppress(NotFound):  # the row went with its tenant
            store.update_job(row.job_id, **ending)


def _ended(row: JobRow) -> str:
    return {"cancelled": "been cancelled"}.get(row.state, row.state)
