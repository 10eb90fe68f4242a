"""Jobs and their error rows in the control plane."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.exc import IntegrityError as ConstraintViolated

from tenants import ids
from tenants.errors import Conflict, InvalidInput, NotFound
from tenants.ids import JobId, TenantUid
from tenants.records import FINISHED, JobError, JobRow, Owner
from tenants.rows import Rows, known, page_size, page_start, plain, to_json
from tenants.tables import JOB_ERRORS, JOBS

MESSAGE_CHARS = 500
ERROR_BATCH = 500
_AS_JSON = frozenset({"counts", "progress"})
_CHANGEABLE = _AS_JSON | {"state", "stage", "index_version", "mlflow_run_id", "error"}


class JobRows(Rows):
    """A tenant's jobs; the job id is the idempotency key of the work."""

    def create_job(self, tenant: Owner, job_id: str, spec: Mapping[str, Any]) -> JobRow:
        """Queue a job; the same id with the same spec gives the existing one, whatever its state.

        Raises `Conflict` when the id stands for other work, `NotFound` when the tenant is gone.
        """
        now, text = self._clock(), to_json(spec)
        fresh = {"state": "queued", "stage": "", "counts": "{}", "progress": "{}", "cancel_requested": False}
        row = {"job_id": ids.job_id(job_id), "uid": tenant.uid, "spec": text, "created_at": now, "updated_at": now}
        insert = self._database.insert(JOBS).values(**row, **fresh).on_conflict_do_nothing(index_elements=["job_id"])
        try:
            with self._database.writing() as connection:
                connection.execute(insert)
                found = connection.execute(select(JOBS).where(JOBS.c.job_id == job_id)).one()
        except ConstraintViolated:
            raise NotFound("there is no such tenant") from None
        if found.uid != tenant.uid or found.spec != text:
            raise Conflict("this job id stands for other work; choose another")
        return _job(found)

    def get_job(self, tenant: Owner, job_id: str) -> JobRow:
        """Raises `NotFound`; another tenant's job is as unknown as none."""
        job = self.find_job(job_id)
        if job.uid != tenant.uid:
            raise _unknown()
        return job

    def find_job(self, job_id: str) -> JobRow:
        """The operator's look-up, across tenants. Raises `NotFound`."""
        query = select(JOBS).where(JOBS.c.job_id == known(job_id, "job"))
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _unknown()
        return _job(row)

    def list_jobs(self, tenant: Owner, cursor: str | None = None, limit: int = 50) -> tuple[list[JobRow], str | None]:
        """(newest first, cursor of the next page or None)."""
        start, size = page_start(cursor), page_size(limit)
        query = select(JOBS).where(JOBS.c.uid == tenant.uid).order_by(JOBS.c.number.desc()).limit(size + 1)
        with self._database.reading() as connection:
            rows = connection.execute(query if start is None else query.where(JOBS.c.number < start)).all()
        return [_job(row) for row in rows[:size]], str(rows[size - 1].number) if len(rows) > size else None

    def update_job(self, job_id: str, **fields: Any) -> JobRow:
        """Report state, stage, counts, progress (mappings, replaced whole), index_version, mlflow_run_id or error.

        `running` stamps started_at once, a final state stamps finished_at. Raises `Conflict` for a job that has
        finished (see `restart_job`), `NotFound`.
        """
        if bad := set(fields) - _CHANGEABLE:
            raise InvalidInput(f"a job has no field {', '.join(sorted(bad))}")
        values = {name: to_json(value) if name in _AS_JSON else value for name, value in fields.items()}
        if values.get("error") is not None:
            values["error"] = plain(values["error"], MESSAGE_CHARS)
        with self._database.writing() as connection:
            row = _locked(connection, job_id)
            if row.state in FINISHED:
                raise Conflict(f"job {job_id} has {row.state}; restart it to go on")
            values |= _stamps(fields.get("state"), row, self._clock())
            connection.execute(update(JOBS).where(JOBS.c.job_id == job_id).values(**values))
            return _job(_locked(connection, job_id))

    def restart_job(self, job_id: str) -> JobRow:
        """Queue a failed, cancelled or dead job again, to resume its work. Raises `Conflict` if it succeeded."""
        values = {"state": "queued", "error": None, "cancel_requested": False, "finished_at": None}
        with self._database.writing() as connection:
            if _locked(connection, job_id).state == "succeeded":
                raise Conflict(f"job {job_id} has succeeded; start a new one")
            change = update(JOBS).where(JOBS.c.job_id == job_id).values(**values, updated_at=self._clock())
            connection.execute(change)
            connection.execute(delete(JOB_ERRORS).where(JOB_ERRORS.c.job_id == job_id))
            return _job(_locked(connection, job_id))

    def request_cancel(self, tenant: Owner, job_id: str) -> JobRow:
        """Ask the job to stop; one that has not started is cancelled at once. Raises `Conflict` if it has finished."""
        now = self._clock()
        with self._database.writing() as connection:
            row = _locked(connection, known(job_id, "job"))
            if row.uid != tenant.uid:
                raise _unknown()
            if row.state in FINISHED and row.state != "cancelled":
                raise Conflict(f"job {job_id} has {row.state}; there is nothing to cancel")
            values: dict[str, Any] = {"cancel_requested": True, "updated_at": now}
            if row.state == "queued":
                values |= {"state": "cancelled", "finished_at": now}
            connection.execute(update(JOBS).where(JOBS.c.job_id == job_id).values(**values))
            return _job(_locked(connection, job_id))

    def cancel_jobs(self, tenant: Owner) -> list[str]:
        """Ask every job of the tenant that has not finished to stop; gives their ids."""
        now = self._clock()
        unfinished = (JOBS.c.uid == tenant.uid) & JOBS.c.state.not_in(FINISHED)
        with self._database.writing() as connection:
            found = connection.execute(select(JOBS.c.job_id).where(unfinished).with_for_update()).scalars().all()
            connection.execute(update(JOBS).where(unfinished).values(cancel_requested=True, updated_at=now))
            queued = unfinished & (JOBS.c.state == "queued")
            connection.execute(update(JOBS).where(queued).values(state="cancelled", finished_at=now))
        return [str(job_id) for job_id in found]

    def cancel_requested(self, job_id: str) -> bool:
        """Whether the job shall stop. Raises `NotFound`, as when its tenant was deleted."""
        query = select(JOBS.c.cancel_requested).where(JOBS.c.job_id == job_id)
        with self._database.reading() as connection:
            found = connection.execute(query).scalar_one_or_none()
        if found is None:
            raise _unknown()
        return bool(found)

    def add_job_errors(self, job_id: str, rows: Iterable[JobError | Mapping[str, Any]]) -> None:
        """Append error rows; one per document and code, so that a retried shard adds nothing twice."""
        values = [_error_values(job_id, row) for row in rows]
        insert = self._database.insert(JOB_ERRORS).on_conflict_do_nothing(index_elements=["job_id", "row_key"])
        try:
            for start in range(0, len(values), ERROR_BATCH):
                with self._database.writing() as connection:
                    connection.execute(insert, values[start : start + ERROR_BATCH])
        except ConstraintViolated:
            raise _unknown() from None

    def list_job_errors(
        self, job_id: str, cursor: str | None = None, limit: int = 100
    ) -> tuple[list[JobError], str | None]:
        """(in the order they came, cursor of the next page or None). Check the owner with `get_job` first."""
        start, size = page_start(cursor) or 0, page_size(limit)
        ours = (JOB_ERRORS.c.job_id == known(job_id, "job")) & (JOB_ERRORS.c.number > start)
        query = select(JOB_ERRORS).where(ours).order_by(JOB_ERRORS.c.number).limit(size + 1)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        errors = [JobError(row.document_id, row.source, row.code, row.message) for row in rows[:size]]
        return errors, str(rows[size - 1].number) if len(rows) > size else None

    def count_job_errors(self, job_id: str) -> int:
        """How many rows `list_job_errors` has in all."""
        query = select(func.count()).select_from(JOB_ERRORS).where(JOB_ERRORS.c.job_id == job_id)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())


def _locked(connection: Connection, job_id: str) -> Row[Any]:
    row = connection.execute(select(JOBS).where(JOBS.c.job_id == job_id).with_for_update()).one_or_none()
    if row is None:
        raise _unknown()
    return row


def _stamps(state: str | None, row: Row[Any], now: datetime) -> dict[str, datetime]:
    stamps = {"updated_at": now}
    if state == "running" and row.started_at is None:
        stamps["started_at"] = now
    if state in FINISHED:
        stamps["finished_at"] = now
    return stamps


def _error_values(job_id: str, row: JobError | Mapping[str, Any]) -> dict[str, str]:
    fields = row if isinstance(row, Mapping) else {name: getattr(row, name) for name in JobError.__dataclass_fields__}
    document = plain(str(fields["document_id"]), 4_096)
    code = plain(str(fields["code"]), 64)
    return {
        "job_id": job_id,
        "row_key": ids.text_digest(f"{code}\0{document}"),
        "document_id": document,
        "source": plain(str(fields.get("source") or ""), 4_096),
        "code": code,
        "message": plain(str(fields["message"]), MESSAGE_CHARS),
    }


def _job(row: Row[Any]) -> JobRow:
    values = {name: getattr(row, name) for name in JobRow.__dataclass_fields__}
    loaded = {name: json.loads(values[name]) for name in ("spec", "counts", "progress")}
    return JobRow(**{**values, **loaded, "job_id": JobId(row.job_id), "uid": TenantUid(row.uid)})


def _unknown() -> NotFound:
    return NotFound("there is no such job")
