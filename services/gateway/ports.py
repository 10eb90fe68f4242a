"""What the gateway is given and does not make itself: one Protocol per neighbour, and `Platform` that holds them.

`cluster/app.py` assembles a `Platform` with the real ones, tests assemble one with fakes; the routes see no
difference. Nothing here knows Ray, Lance or a model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from services.audit.reading import AuditReader
from services.contracts import PairScorer
from services.experiments.serving import Variants
from services.experiments.switching import Switching
from services.gateway.fairness import FairGate
from services.gateway.limits import RateLimits
from services.gateway.usage import TenantPairs
from services.query import Steps
from services.settings import Settings
from tenants.scope import TenantScope
from tenants.store import CalibrationCache, KeyCache, Store


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a multipart body; `name` becomes the document id."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Component:
    """One line of /readyz. What is `optional` is worth having: the platform answers without it, and says so."""

    name: str
    version: str
    ready: bool
    detail: str = ""
    optional: bool = False


class Indexer(Protocol):
    """Small writes that are visible when the call returns. Every method returns plain JSON values."""

    async def index(
        self, scope: TenantScope, documents: Sequence[Mapping[str, Any]], uploads: Sequence[Upload], collection: str
    ) -> Mapping[str, Any]:
        """`{indexed, unchanged, failed, index_version}`."""
        ...

    async def delete(self, scope: TenantScope, document_id: str) -> Mapping[str, Any]:
        """`{index_version}`; `NotFound` when the published version does not hold the document."""
        ...

    async def erase(self, scope: TenantScope, document_ids: Sequence[str]) -> Mapping[str, Any]:
        """`{erased, index_version}`: the documents' bytes are gone from every version that still exists."""
        ...

    async def rollback(self, scope: TenantScope, to: int | None) -> Mapping[str, Any]:
        """`{index_version}` of the release that is now current."""
        ...

    async def drop(self, scope: TenantScope) -> None:
        """Remove everything that the tenant stored; the tenant's row goes last, after this."""
        ...


class JobSubmitter(Protocol):
    """Runs the fixed indexing entrypoint elsewhere; the tenant reaches it only through a job's row."""

    async def submit(self, tenant: str, job_id: str, spec: Mapping[str, Any]) -> None:
        """Returns once the job is queued; `Unavailable` when nothing takes it."""
        ...

    async def stop(self, job_id: str) -> None:
        """Ask the job to end soon; a job that is already gone is no error."""
        ...

    async def is_lost(self, job_id: str) -> bool:
        """Whether this submitter's process for the job has ended, whatever the job's row says."""
        ...


class Catalogue(Protocol):
    """Reads of what is published, beside the two legs of a search."""

    async def documents(self, scope: TenantScope, after: str | None, limit: int) -> Sequence[Mapping[str, Any]]:
        """Up to `limit` documents with an id greater than `after`, by id."""
        ...

    async def document(self, scope: TenantScope, document_id: str) -> Mapping[str, Any]:
        """One document; `NotFound` when the pinned version does not hold it."""
        ...

    async def pinned(self, scope: TenantScope) -> TenantScope:
        """The scope with its current release."""
        ...

    async def versions(self, scope: TenantScope) -> Sequence[Mapping[str, Any]]:
        """Every release that can still be read, newest first."""
        ...


class Desk(Protocol):
    """Experiments: what is compared, how it stands, what serves. Blocking; every method returns plain JSON values."""

    def create(self, raw: object, actor: str, *, dry_run: bool = False) -> Mapping[str, Any]:
        """Start one; `dry_run` only checks it and plans its size."""
        ...

    def experiments(self) -> Sequence[Mapping[str, Any]]:
        """Newest first, without figures."""
        ...

    def show(self, name: str) -> Mapping[str, Any]:
        """One with its figures as of now."""
        ...

    def set_ramp(self, name: str, ramp: float, actor: str) -> Mapping[str, Any]:
        """Let another share of units take part."""
        ...

    def stop(self, name: str, actor: str, why: str = "") -> Mapping[str, Any]:
        """End it; the champion answers everybody again."""
        ...

    def promote(self, name: str, actor: str, arm: str | None = None) -> Mapping[str, Any]:
        """Serve an arm's variant to everybody, and end the experiment."""
        ...

    def rollback(self, name: str, actor: str) -> Mapping[str, Any]:
        """Serve again what served before."""
        ...

    def delete(self, name: str) -> Mapping[str, Any]:
        """Forget one that has ended; what was promoted stays."""
        ...

    def look(self) -> None:
        """Stop what harms, tell MLflow what it lacks."""
        ...


class Metrics(Protocol):
    """Counts; never raises, never blocks."""

    def request(self, tenant: str, route: str, status: int, seconds: float) -> None:
        """One HTTP request ended; `status` 0 = the client went away before an answer."""
        ...

    def stage(self, tenant: str, stage: str, seconds: float) -> None:
        """One stage of one question took so long."""
        ...

    def reranked(self, tenant: str, decision: str) -> None:
        """What was decided about reranking for one question."""
        ...


@dataclass(frozen=True, slots=True)
class Platform:
    """Everything one gateway needs. `admin_key` opens /admin and, as the operator, every tenant.

    `gate` shares what reads (questions, the catalogue), `writes` what changes an index; `doors` are the threads that
    look keys up, so that nobody's long work in the common ones keeps a caller waiting at the door. `pairs` are the
    tenants' quotas of what `scorer` does. `variants` and `switching` say which configuration answers a question.
    """

    settings: Settings
    admin_key: str
    store: Store
    keys: KeyCache
    calibrations: CalibrationCache
    steps: Steps
    scorer: PairScorer
    pairs: TenantPairs
    catalogue: Catalogue
    indexer: Indexer
    jobs: JobSubmitter
    audit: AuditReader
    desk: Desk
    gate: FairGate
    writes: FairGate
    limits: RateLimits
    metrics: Metrics
    components: Callable[[], Awaitable[Sequence[Component]]]
    version: str
    count_tokens: Callable[[str, Sequence[str]], Awaitable[int]]
    variants: Variants = field(default_factory=Variants)
    switching: Switching = field(default_factory=Switching)
    generators: tuple[str, ...] = ()  # what a chat's `model` may name beside our own
    doors: Executor = field(default_factory=partial(ThreadPoolExecutor, 4, "fathom-keys"))
