"""TenantScope: the capability that every step which touches a tenant's data is handed. Pure.

Only two makers exist: the gateway after a credential was verified, and a job or the operator's CLI on this
machine. A scope without a release is a tenant whose index is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tenants.config import TenantConfig
from tenants.ids import TenantName, TenantUid

TOKENIZER = "tokenizer"  # in a release's profile: whose token ids its rows hold
TURNOVER = "turnover"  # in a release's profile: chunks that ever came to or went from its table


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
class Shared:
    """A collection that its owner granted to the scope's tenant, at the version that serves there; read only.

    `name` is `owner/collection`, as configurations, filters and results spell it.
    """

    name: str
    uid: TenantUid
    collection: str
    corpus_uri: str
    languages: tuple[str, ...]
    release: Release

    @property
    def key(self) -> str:
        """Names the collection over all times: `Passage.owner` of its passages."""
        return f"{self.uid}/{self.collection}"


@dataclass(frozen=True, slots=True)
class Champion:
    """The variant that serves a tenant: `overrides` are laid over its configuration. `variant` None = none is.

    `number` grows with every promotion and rollback of any tenant; `restored` = it is what a rollback brought back.
    """

    number: int
    variant: str | None
    overrides: Mapping[str, Any]
    restored: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """The experiment that runs on a tenant; `spec` is services/experiments/spec.py's, `salt` its hashes' own."""

    experiment: str
    salt: str
    ramp: float
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """Which variant of its tenant's configuration a scope stands for, and how this question came to it.

    name        what the answer and the audit say: `cheaper/treatment`, `default` for the plain configuration beside or
                after others; None = there are no others
    experiment, arm   None outside of an experiment; kind is the experiment's
    unit        digest of who keeps the arm (its user, session, …); "" = nobody is known
    propensity  P(this arm) for the unit, 1 outside of an experiment
    """

    name: str | None = None
    experiment: str | None = None
    arm: str | None = None
    unit: str = ""
    propensity: float = 1.0
    kind: Literal["ab", "interleaving", "shadow"] | None = None


@dataclass(frozen=True, slots=True)
class TenantScope:
    """Whose data, under which rules, at which address and version.

    `root` is the platform's data root (a local path or `s3://…`); everything of the tenant's lies below
    `base`, whose name is random and never user input. `calibration` is the tenant's own reranking profile (JSON; None =
    the pooled one that ships), `alarms` {group: certificate id} the certificates that the drift alarm has voided,
    `earlier` the newest profiles of other cross-encoders, for variants that score by them.
    `champion` and `trial` say which variants there are; `variant` is the one that `config` belongs to. `rival` is
    the other arm of an interleaved or shadowed question.
    """

    tenant: TenantName
    uid: TenantUid
    config: TenantConfig
    root: str
    release: Release | None = None
    calibration: Mapping[str, Any] | None = None
    alarms: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[Shared, ...] = ()
    earlier: tuple[Mapping[str, Any], ...] = ()
    champion: Champion | None = None
    trial: Trial | None = None
    variant: Variant = Variant()
    rival: TenantScope | None = None

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

    def tokenizer_of(self, owner: str) -> str:
        """Digest of the tokenizer whose ids a passage holds, by `Passage.owner`; "" = nobody's, do not read them."""
        releases = {share.key: share.release for share in self.shared} | ({"": self.release} if self.release else {})
        return str(releases[owner].profile.get(TOKENIZER, "")) if owner in releases else ""
