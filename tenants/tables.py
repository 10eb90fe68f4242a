"""The control plane's tables, one definition for SQLite and PostgreSQL. Does no I/O.

Times are UTC. JSON columns are text (`json.dumps`, ASCII), so that both databases keep every string that JSON
can say. Everything that belongs to a tenant hangs on `tenants.uid` and goes with it (ON DELETE CASCADE).
`number` columns are serial numbers, used as page cursors. The schema in use is made by `migrations/`; a test
compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.types import TypeDecorator

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps no zone, so it is taken off on the way in and put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _serial() -> Column[Any]:
    # SQLite counts by itself only in a column that is exactly INTEGER PRIMARY KEY.
    return Column("number", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True)


def _owner() -> Column[Any]:
    return Column("uid", String(32), ForeignKey("tenants.uid", ondelete="CASCADE"), nullable=False)


PLATFORM = Table(
    "platform",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

TENANTS = Table(
    "tenants",
    METADATA,
    Column("uid", String(32), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("config", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

KEYS = Table(
    "keys",
    METADATA,
    Column("key_id", String(12), primary_key=True),
    _owner(),
    Column("scope", String(8), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Index("ix_keys_uid", "uid"),
)

JOBS = Table(
    "jobs",
    METADATA,
    _serial(),
    Column("job_id", String(80), nullable=False, unique=True),
    _owner(),
    Column("state", String(16), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("spec", Text, nullable=False),
    Column("counts", Text, nullable=False),
    Column("progress", Text, nullable=False),
    Column("index_version", Integer),
    Column("mlflow_run_id", String(64)),
    Column("error", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Index("ix_jobs_uid", "uid", "number"),
)

JOB_ERRORS = Table(
    "job_errors",
    METADATA,
    _serial(),
    Column("job_id", String(80), ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("row_key", String(32), nullable=False),
    Column("document_id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("code", String(64), nullable=False),
    Column("message", Text, nullable=False),
    UniqueConstraint("job_id", "row_key"),
    Index("ix_job_errors_job_id", "job_id", "number"),
)

IDEMPOTENCY = Table(
    "idempotency",
    METADATA,
    Column("caller", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("tenant", String(63)),
    Column("request_digest", String(64), nullable=False),
    Column("status", Integer),
    Column("headers", Text),
    Column("body", LargeBinary),
    Column("locked_until", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index("ix_idempotency_expires_at", "expires_at"),
)

USAGE = Table(
    "usage",
    METADATA,
    Column("uid", String(32), ForeignKey("tenants.uid", ondelete="CASCADE"), primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("amount", BigInteger, nullable=False),
)

FEEDBACK = Table(
    "feedback",
    METADATA,
    _serial(),
    _owner(),
    Column("query_id", String(255), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_feedback_uid", "uid", "number"),
)

CALIBRATIONS = Table(
    "calibrations",
    METADATA,
    _serial(),
    _owner(),
    Column("version", Integer, nullable=False),
    Column("profile", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("uid", "version"),
)

DRIFT = Table(
    "drift",
    METADATA,
    Column("uid", String(32), ForeignKey("tenants.uid", ondelete="CASCADE"), primary_key=True),
    Column("group", String(64), primary_key=True),
    Column("certificate", String(32), nullable=False),
    Column("state", Text, nullable=False),
    Column("alarmed", Boolean, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

GRANTS = Table(
    "grants",
    METADATA,
    Column("owner", String(32), ForeignKey("tenants.uid", ondelete="CASCADE"), primary_key=True),
    Column("collection", String(64), primary_key=True),
    Column("subscriber", String(32), ForeignKey("tenants.uid", ondelete="CASCADE"), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_grants_subscriber", "subscriber"),
)

EXPERIMENTS = Table(
    "experiments",
    METADATA,
    _serial(),
    Column("name", String(48), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("spec", Text, nullable=False),
    Column("salt", String(32), nullable=False),
    Column("ramp", Text, nullable=False),
    Column("outcome", Text),
    Column("tracked", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("stopped_at", UtcDateTime),
    Column("watched_at", UtcDateTime),
)

TRIALS = Table(
    "trials",
    METADATA,
    Column("experiment", String(48), ForeignKey("experiments.name", ondelete="CASCADE"), primary_key=True),
    Column("uid", String(32), ForeignKey("tenants.uid", ondelete="CASCADE"), primary_key=True),
    Index("ix_trials_uid", "uid"),
)

CHAMPIONS = Table(
    "champions",
    METADATA,
    _serial(),
    _owner(),
    Column("variant", String(100)),
    Column("overrides", Text, nullable=False),
    Column("previous", BigInteger, nullable=False),
    Column("action", String(16), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_champions_uid", "uid", "number"),
)
