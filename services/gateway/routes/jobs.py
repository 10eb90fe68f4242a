"""Indexing jobs: submit the fixed entrypoint, list, read with errors, cancel. Tenants never reach Ray."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from services.gateway import bodies, replies
from services.gateway.admission import counted
from services.gateway.auth import Access, may, platform_of
from services.gateway.http import TENANT_ERRORS, accepts, answers, iso, repeatable, reply
from services.gateway.idempotency import once
from services.gateway.ingest_urls import check_sources
from services.gateway.ports import Platform
from tenants.errors import FathomError, Overloaded, QuotaExceeded, Unavailable
from tenants.ids import new_job_id
from tenants.records import FINISHED, JobRow

router = APIRouter(prefix="/t/{tenant}/v1/jobs", tags=["jobs"])

Reader = Annotated[Access, Depends(may("query"))]
Writer = Annotated[Access, Depends(may("index"))]
Cursor = Annotated[str | None, Query(max_length=64)]
_WRITE_ERRORS = (*TENANT_ERRORS, 409)
SILENCE = timedelta(seconds=30)  # a job reports several times in this
RETRY_S = 10.0  # jobs take minutes
_COUNTS = ("new", "changed", "unchanged", "deleted", "failed")


@router.post(
    "",
    status_code=202,
    responses=answers(replies.JobAccepted, 202, errors=_WRITE_ERRORS),
    openapi_extra=accepts(bodies.JobBody) | repeatable(),
)
async def submit(request: Request, access: Writer) -> Response:
    """Queue an indexing job over URLs that the platform's `ingest.allow` admits."""
    platform = platform_of(request)
    counted(platform, access, request)
    body = await bodies.read_body(request, bodies.JobBody)
    check_sources(body.sources, platform.settings.ingest.allow)

    async def queue() -> Response:
        return reply({"job_id": await _submit(platform, access, body.model_dump())}, 202)

    return await once(request, access.scope.uid, queue, body=body.model_dump_json)


@router.get("", responses=answers(replies.JobPage))
async def list_jobs(
    request: Request, access: Reader, cursor: Cursor = None, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> Response:
    """The tenant's jobs, newest first."""
    platform = platform_of(request)
    counted(platform, access, request)
    rows, more = await asyncio.to_thread(platform.store.list_jobs, access.scope, cursor, limit)
    return reply({"jobs": [job_json(row) for row in rows], "next_cursor": more})


@router.get("/{job_id}", responses=answers(replies.JobDetail))
async def read_job(request: Request, access: Reader, job_id: str, error_cursor: Cursor = None) -> Response:
    """One job: state, counts, rate, time left, and a page of its errors."""
    platform = platform_of(request)
    counted(platform, access, request)
    row = await _settled(platform, await asyncio.to_thread(platform.store.get_job, access.scope, job_id))
    errors, more = await asyncio.to_thread(platform.store.list_job_errors, row.job_id, error_cursor)
    rows = [{"document_id": e.document_id, "source": e.source, "code": e.code, "message": e.message} for e in errors]
    return reply(job_json(row) | {"errors": rows, "next_error_cursor": more})


@router.post("/{job_id}/cancel", responses=answers(replies.JobReply, errors=_WRITE_ERRORS), openapi_extra=repeatable())
async def cancel(request: Request, access: Writer, job_id: str) -> Response:
    """Ask a job to stop; what it has not published stays unpublished."""
    platform = platform_of(request)
    counted(platform, access, request)

    async def ask() -> Response:
        row = await asyncio.to_thread(platform.store.request_cancel, access.scope, job_id)
        if row.state == "cancelled":
            await platform.jobs.stop(row.job_id)
        return reply(job_json(row))

    return await once(request, access.scope.uid, ask)


def job_json(row: JobRow) -> dict[str, Any]:
    """A job as the contract shows it; what the job has not reported yet is 0 or null."""
    counts = row.counts
    return {
        "job_id": row.job_id,
        "state": row.state,
        "stage": row.stage,
        "documents": {name: int(counts.get(name, 0)) for name in _COUNTS},
        "chunks": int(row.counts.get("chunks", 0)),
        "tokens": int(row.counts.get("tokens", 0)),
        "rate": row.progress.get("rate"),
        "eta_s": row.progress.get("eta_s"),
        "index_version": row.index_version,
        "plan": counts.get("plan"),
        "mlflow_run_id": row.mlflow_run_id,
        "error": row.error,
        "created_at": iso(row.created_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
    }


async def _settled(platform: Platform, row: JobRow) -> JobRow:
    """A silent job whose process has ended without a word has failed; the same id resumes it."""
    silent = datetime.now(UTC) - row.updated_at > SILENCE
    if row.state in FINISHED or not silent or not await platform.jobs.is_lost(row.job_id):
        return row
    lost = "the job's process ended without a result; its log lies with Ray under the job's id"
    return await asyncio.to_thread(platform.store.update_job, row.job_id, state="failed", error=lost)


async def _has_room(platform: Platform, access: Access, most: int) -> None:
    """Raises `QuotaExceeded` when more than `most` of the tenant's jobs are at work; lost ones do not count."""
    found = await asyncio.to_thread(platform.store.open_jobs, access.scope)
    if len(found) <= most:
        return
    rows = [await asyncio.to_thread(platform.store.get_job, access.scope, job_id) for job_id in found]
    states = [(await _settled(platform, row)).state for row in rows]
    if sum(state not in FINISHED for state in states) > most:
        limit = platform.settings.limits.jobs_per_tenant
        detail = f"{limit} of your jobs are queued or running already; wait for one, or cancel it"
        raise QuotaExceeded(detail, retry_after_s=RETRY_S)


async def _submit(platform: Platform, access: Access, spec: dict[str, Any]) -> str:
    """The row first, so that a job which starts at once finds it; a refused submission ends the row."""
    await _has_room(platform, access, platform.settings.limits.jobs_per_tenant - 1)
    job_id = new_job_id()
    # The job looks its row up by this very order: sources from outside are untrusted wherever they are read.
    spec = {**spec, "job_id": job_id, "untrusted": True}
    await asyncio.to_thread(platform.store.create_job, access.scope, job_id, spec)
    try:
        # Asked again with its own row in the list: others may have come in meanwhile.
        await _has_room(platform, access, platform.settings.limits.jobs_per_tenant)
        await platform.jobs.submit(access.scope.tenant, job_id, spec)
    except FathomError as error:
        # The row has ended: a submission that got through after all finds that and does nothing.
        await asyncio.to_thread(platform.store.update_job, job_id, state="failed", error=error.detail)
        if isinstance(error, Unavailable):
            raise Overloaded(error.detail, retry_after_s=error.retry_after_s) from error
        raise
    return job_id
