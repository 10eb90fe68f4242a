"""The control plane: tenants, keys, jobs, feedback, calibrations, experiments, in SQLite or PostgreSQL. Blocking.

    store = open_store("sqlite:////var/lib/fathom/control.db", pepper=pepper)
    acme = store.create_tenant("acme")
    plain, info = store.add_key(acme, "query")
    store.authenticate(plain).tenant.name

The parts stand in the `*_rows` files and idempotency, the schema in tables and migrations/. A store may be shared by
threads and survives a fork; it is not pickled: each process opens its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError as ConstraintViolated

from tenants import keys
from tenants.calibration_rows import CalibrationCache, CalibrationRows
from tenants.database import Database
from tenants.errors import FathomError, NotFound, Unavailable
from tenants.experiment_rows import ExperimentRows
from tenants.grant_rows import GrantRows
from tenants.idempotency import IdempotencyRows
from tenants.job_rows import JobRows
from tenants.key_rows import KeyCache, KeyRows
from tenants.records import Feedback, Owner
from tenants.rows import Clock, known, page_size, page_start, to_json, utc_now
from tenants.tables import FEEDBACK, PLATFORM
from tenants.tenant_rows import TenantRows
from tenants.usage_rows import UsageRows

__all__ = ["CalibrationCache", "KeyCache", "Store", "open_store"]

_PEPPER_CHECK = "pepper_check"


class Store(TenantRows, KeyRows, JobRows, IdempotencyRows, UsageRows, CalibrationRows, GrantRows, ExperimentRows):
    """Everything the control plane keeps."""

    def add_feedback(self, tenant: Owner, query_id: str, body: Mapping[str, Any]) -> None:
        """Keep a judgement on one answer. Raises `NotFound` when the tenant is gone."""
        row = {"uid": tenant.uid, "query_id": known(query_id, "query"), "body": to_json(body)}
        try:
            with self._database.writing() as connection:
                connection.execute(FEEDBACK.insert().values(**row, created_at=self._clock()))
        except ConstraintViolated:
            raise NotFound("there is no such tenant") from None

    def list_feedback(
        self, tenant: Owner, cursor: str | None = None, limit: int = 100
    ) -> tuple[list[Feedback], str | None]:
        """(oldest first, cursor of the next page or None)."""
        start, size = page_start(cursor) or 0, page_size(limit)
        ours = (FEEDBACK.c.uid == tenant.uid) & (FEEDBACK.c.number > start)
        query = select(FEEDBACK).where(ours).order_by(FEEDBACK.c.number).limit(size + 1)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        found = [Feedback(row.query_id, json.loads(row.body), row.created_at) for row in rows[:size]]
        return found, str(rows[size - 1].number) if len(rows) > size else None

    def feedback_since(self, tenant: Owner, when: datetime) -> Iterator[Feedback]:
        """Oldest first."""
        ours = (FEEDBACK.c.uid == tenant.uid) & (FEEDBACK.c.created_at >= when)
        with self._database.reading() as connection:
            for row in connection.execute(select(FEEDBACK).where(ours).order_by(FEEDBACK.c.number)):
                yield Feedback(row.query_id, json.loads(row.body), row.created_at)

    def ping(self) -> None:
        """Raises `Unavailable` when the database does not answer."""
        with self._database.reading() as connection:
            connection.execute(text("SELECT 1")).scalar_one()

    def close(self) -> None:
        """Close this process's connections."""
        self._database.close()

    def check_pepper(self) -> None:
        """Refuse to run with another pepper than the one the stored keys were made with: every key would fail."""
        mark = keys.digest(_PEPPER_CHECK, self._pepper())
        first = self._database.insert(PLATFORM).values(name=_PEPPER_CHECK, value=mark).on_conflict_do_nothing()
        query = select(PLATFORM.c.value).where(PLATFORM.c.name == _PEPPER_CHECK)
        with self._database.writing() as connection:
            connection.execute(first)
            stored = connection.execute(query).scalar_one()
        if stored != mark:
            raise Unavailable("the pepper is not the one the keys were made with; set FATHOM_PEPPER to that one")


def open_store(url: str, *, pepper: bytes | None = None, clock: Clock = utc_now) -> Store:
    """Open the control plane at `url` (`sqlite:///file`, `postgresql://…`), migrating its schema first.

    Without `pepper` everything but keys and idempotency works. Raises `InvalidInput` for the URL, `Unavailable`
    when the database does not answer or the pepper is the wrong one.
    """
    database = Database(url)
    store = Store(database, pepper, clock)
    try:
        database.migrate()
        if pepper:
            store.check_pepper()
    except FathomError:
        database.close()
        raise
    return store
