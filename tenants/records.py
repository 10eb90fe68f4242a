"""What the control plane's store gives back: frozen values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from tenants.config import TenantConfig
from tenants.ids import JobId, TenantName, TenantUid
from tenants.keys import Scope

TenantState = Literal["active", "suspended", "deleting"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FINISHED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


class Owner(Protocol):
    """Whoever owns rows: a `Tenant`, or a `TenantScope`."""

    @property
    def uid(self) -> TenantUid:
        """The tenant's own, never re-used name."""
        ...


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as the operator knows it."""

    name: TenantName
    uid: TenantUid
    state: TenantState
    config: TenantConfig
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key without its secret."""

    key_id: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Credential:
    """A verified key. A suspended tenant's key is genuine too: look at `tenant.state`."""

    tenant: Tenant
    key_id: str
    scope: Scope
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """One indexing job. `counts` and `progress` are what the job last reported; `number` orders jobs by age."""

    job_id: JobId
    uid: TenantUid
    number: int
    state: JobState
    stage: str
    spec: Mapping[str, Any]
    counts: Mapping[str, Any]
    progress: Mapping[str, Any]
    index_version: int | None
    mlflow_run_id: str | None
    error: str | None
    cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobError:
    """One document that a job could not take in: a reason code and one sentence, never the document's text."""

    document_id: str
    source: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The answer that an idempotency key stands for."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Feedback:
    """A user's judgement on one answer."""

    query_id: str
    body: Mapping[str, Any]
    created_at: datetime
