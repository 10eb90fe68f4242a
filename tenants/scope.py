"""TenantScope: the capability that every step which touches a tenant's data is handed. Pure.

Only two makers exist: the gateway after a credential was verified, and a job or the operator's CLI on this
machine. A scope without a release is a tenant whose index is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tenants.config import TenantConfig
from tenants.ids import TenantName, TenantUid


@dataclass(frozen=True, slots=True)
class Release:
    """A published index version; immutable once written.

    `version` counts from 1 per tenant. `table` and `lance_version` address the rows, `fingerprint` names
    parser + chunker + embedder. `profile` holds what was learned at indexing (fusion, score statistics).
    """

    version: int
    table: str
    lance_version: int
    fingerprint: str
    embedder: str
    dimension: int
    published_at: str
    documents: int
    chunks: int
    tokens: int
    manifest: str
    manifest_digest: str
    job_id: str
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TenantScope:
    """Whose data, under which rules, at which address and version.

    `root` is the platform's data root (a local path or `s3://…`); everything of the tenant's lies below
    `base`, whose name is random and never user input. `calibration` is the tenant's own reranking profile (JSON; None =
    the pooled one that ships), `alarms` {group: certificate id} the certificates that the drift alarm has voided.
    """

    tenant: TenantName
    uid: TenantUid
    config: TenantConfig
    root: str
    release: Release | None = None
    calibration: Mapping[str, Any] | None = None
    alarms: Mapping[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The tenant's own folder (or key prefix), without a trailing slash."""
        return f"{self.root.rstrip('/')}/tenants/{self.uid}"

    @property
    def corpus_uri(self) -> str:
        """The tenant's LanceDB database."""
        return f"{self.base}/corpus"

    @property
    def index_version(self) -> int:
        """The pinned version; 0 while nothing is published."""
        return self.release.version if self.release else 0
