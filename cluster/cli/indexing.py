"""Runs an indexing job for `fathom index`: here as a Ray driver, or there through the Ray Jobs API."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.cli.progress import shown
from cluster.platform import platform_settings
from cluster.ray_head import driver_environment
from cluster.status import running_platform
from services.control_plane import open_control_plane
from services.settings import Settings, adopt_environment
from tenants.errors import Conflict, FathomError
from tenants.ids import JobId, collection_name, job_id, new_job_id, tenant_name
from tenants.records import Tenant
from tenants.scope import TenantScope
from tenants.store import Store


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for."""

    tenant: str
    sources: tuple[str, ...]
    collection: str
    sync: bool
    yes: bool
    dry_run: bool
    resume: str | None


def run_here(order: Order, settings: Settings) -> dict[str, Any]:
    """Drive the job from this process: on the running platform's Ray, else on a Ray of its own."""
    info = running_platform(settings.data_dir)
    if info is not None:
        adopt_environment(driver_environment(info))
        settings = platform_settings(settings, info)
    # Loaded after the environment is set: Ray reads it at import.
    from jobs.indexing.pipeline import run_index_job

    store = open_control_plane(settings)
    tenant = store.get_tenant(tenant_name(order.tenant))
    job = _job(order, store, tenant)
    scope = TenantScope(tenant.name, tenant.uid, tenant.config, settings.root)
    with shown(order.tenant) as show, _cancelled_by_interrupt(store, tenant, job.job_id):
        return dict(run_index_job(job, scope, store, settings, show).to_json())


def _job(order: Order, store: Store, tenant: Tenant) -> Any:
    """The job's order; a resumed one keeps what it was asked to do at first."""
    from jobs.indexing.job import IndexJob

    if order.resume is None:
        return IndexJob(
            new_job_id(),
            order.sources,
            collection=collection_name(order.collection),
            sync=order.sync,
            yes=order.yes,
            dry_run=order.dry_run,
        )
    row = store.get_job(tenant, job_id(order.resume))
    if row.state == "succeeded":
        raise Conflict(f"job {row.job_id} has succeeded; there is nothing to resume")
    known = {name: row.spec[name] for name in ("collection", "sync", "untrusted") if name in row.spec}
    return IndexJob(row.job_id, tuple(row.spec["sources"]), yes=order.yes or bool(row.spec.get("yes")), **known)


@contextmanager
def _cancelled_by_interrupt(store: Store, tenant: Tenant, job: JobId) -> Iterator[None]:
    """The first Ctrl-C asks the job to stop at a clean point, a second one ends the process at once."""

    def ask(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        store.request_cancel(tenant, job)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_there(order: Order, settings: Settings, address: str) -> dict[str, Any]:
    """Submit the fixed entrypoint, follow it, return its JSON document. Raises what ended the job."""
    info = running_platform(settings.data_dir)
    if info is not None:
        adopt_environment(driver_environment(info))
        settings = platform_settings(settings, info)
    from cluster.submit import ROOT, RayJobs, entrypoint, last_lines

    job = job_id(order.resume) if order.resume else new_job_id()
    submission = f"{job}_again_{new_job_id()[-6:]}" if order.resume else str(job)
    ray = RayJobs(address)
    ray.submit(
        submission,
        entrypoint(order.tenant, job, order.sources, _flags(order)),
        job_environment(settings),
        working_dir=None if info else str(ROOT),
    )
    try:
        status = ray.wait(submission, lambda: None)
    except KeyboardInterrupt:
        ray.stop(submission)
        raise
    lines = list(last_lines(ray.logs(submission), 1))
    return _document(job, str(status), lines[0] if lines else "")


def job_environment(settings: Settings) -> dict[str, str]:
    """What a submitted job needs to find the same platform; no secret but the database's own URL."""
    return {
        "FATHOM_DATA_DIR": settings.data_dir,
        "FATHOM_DATA_ROOT": settings.root,
        "FATHOM_DATABASE_URL": settings.control_url,
        "FATHOM_MLFLOW_TRACKING_URI": settings.mlflow_uri,
    }


def _flags(order: Order) -> list[str]:
    flags = ["--json", "--collection", order.collection]
    chosen = {"--sync": order.sync, "--yes": order.yes, "--dry-run": order.dry_run}
    flags += [flag for flag, given in chosen.items() if given]
    return flags + (["--resume", order.resume] if order.resume else [])


def _document(job: str, status: str, line: str) -> dict[str, Any]:
    try:
        found = dict(json.loads(line))
    except ValueError:
        raise FathomError(f"job {job} ended as {status}: {line or 'it printed nothing'}") from None
    if "error" in found:
        raise FathomError(str(found["error"].get("detail", found["error"])))
    return found
