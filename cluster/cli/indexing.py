"""Runs an indexing job for `fathom index`: here as a Ray driver, or there through the Ray Jobs API."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.cli.attaching import attached
from cluster.cli.progress import shown
from cluster.platform import platform_settings
from cluster.ray_head import driver_environment
from cluster.status import running_platform
from services.control_plane import open_control_plane
from services.settings import FOREIGN, Settings, adopt_environment
from tenants.errors import Conflict, FathomError
from tenants.ids import collection_name, job_id, new_job_id, tenant_name
from tenants.records import Tenant
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
    settings = attached(settings)
    # Loaded after the environment is set: Ray reads it at import.
    from jobs.indexing.pipeline import run_index_job

    store = open_control_plane(settings)
    tenant = store.get_tenant(tenant_name(order.tenant))
    job = _job(order, store, tenant)
    scope = store.scope_of(tenant, settings.root)
    with shown(order.tenant) as show:
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
    known = {name: row.spec[name] for name in IndexJob.__dataclass_fields__ if name in row.spec}
    return IndexJob(**{**known, "job_id": row.job_id, "sources": tuple(row.spec["sources"])})


def run_there(order: Order, settings: Settings, address: str) -> dict[str, Any]:
    """Submit the fixed entrypoint, follow it, return its JSON document. Raises what ended the job."""
    info = running_platform(settings.data_dir)
    if info is not None:
        adopt_environment(driver_environment(info), drop=FOREIGN)
        settings = platform_settings(settings, info)
    from cluster.submit import Submission

    job = job_id(order.resume) if order.resume else new_job_id()
    # Ray takes an id once: a resumed job keeps its own and gets a new one of Ray's.
    submission = Submission(address, f"{job}-{new_job_id()[-6:]}" if order.resume else job)
    # On this machine the job runs with this interpreter; elsewhere `python` is that machine's.
    submission.start(_command(order, job, sys.executable if info else "python"), settings)
    try:
        status = submission.wait()
    except KeyboardInterrupt:
        submission.stop()
        raise
    return _document(job, status, submission.lines())


def _command(order: Order, job: str, python: str) -> str:
    """The fixed entrypoint with this order's arguments, quoted; paths that exist here are made absolute."""
    words = [python, "-m", "jobs.indexing", "--tenant", order.tenant, "--json"]
    words += ["--resume", job] if order.resume else ["--job-id", job, "--collection", order.collection]
    for source in order.sources:
        words += ["--source", str(Path(source).absolute()) if Path(source).exists() else source]
    chosen = {"--sync": order.sync, "--yes": order.yes, "--dry-run": order.dry_run}
    return shlex.join(words + [flag for flag, given in chosen.items() if given])


def _document(job: str, status: str, lines: Sequence[str]) -> dict[str, Any]:
    """The job's last JSON object; its log also holds progress, and its error as a sentence."""
    found = next((value for line in reversed(lines) if (value := _object(line)) is not None), None)
    if found is None:
        raise FathomError(f"job {job} ended as {status}: {lines[-1] if lines else 'it printed nothing'}")
    if "error" in found:
        raise FathomError(str(found["error"].get("detail", found["error"])))
    return found


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
