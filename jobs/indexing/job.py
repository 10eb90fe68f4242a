"""What an indexing job is asked to do, where it keeps its state, and what it reports. Pure.

A job's folder `jobs/{job_id}/` in the tenant's storage, everything in it written once:

    plan.json              the plan's figures; its presence says that planning is complete
    gone.json              ids of documents to delete; errors.json: what could not be listed
    shards/{n}.arrow       the documents of shard n (SOURCE_SCHEMA): what they are is fixed, so a resumed job
                           does the same work, whatever happened to the source meanwhile
    receipts/{n}.json      shard n is written: its fragments, documents, errors and stage times
    lease/                 one driver per job
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tenants.ids import JobId

DEFAULT_COLLECTION = "default"
STAGES = ("list", "parse", "chunk", "embed", "write", "commit", "index", "learn")


@dataclass(frozen=True, slots=True)
class IndexJob:
    """The order: read `sources` into `collection`.

    `sync` also deletes what is gone from these source roots; `yes` confirms large deletions; `untrusted` sources
    come from a tenant over HTTP and are held to `ingest.allow`.
    """

    job_id: JobId
    sources: tuple[str, ...]
    collection: str = DEFAULT_COLLECTION
    sync: bool = False
    yes: bool = False
    dry_run: bool = False
    untrusted: bool = False

    def spec(self) -> dict[str, Any]:
        """The order as JSON, for the job's row."""
        return {**asdict(self), "sources": [*self.sources]}

    @property
    def folder(self) -> str:
        """The job's folder below the tenant's base."""
        return job_folder(self.job_id)


def job_folder(job_id: str) -> str:
    """A job's folder below the tenant's base."""
    return f"jobs/{job_id}"


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents by what becomes of them."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job will do. `bytes` are those to be read; `seconds` is an estimate from the last run's rate."""

    counts: Counts
    bytes: int
    seconds: float
    shards: int
    documents: int
    fingerprint: str
    table: str
    embedder: str
    dimension: int
    base_version: int
    roots: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "roots": [*self.roots]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The reverse of `to_json`."""
        return cls(**{**value, "counts": Counts(**value["counts"]), "roots": tuple(value["roots"])})


@dataclass(frozen=True, slots=True)
class Receipt:
    """Shard `shard` is durable. Nothing else of it ever reaches the driver.

    fragments  Lance's fragment metadata, JSON texts, not committed yet
    documents  (document_id, source, collection, digest, size in bytes, chunks) of each document in them
    errors     (document_id, source, code, message)
    seconds    wall time by stage
    tokenizer  digest of the tokenizer whose ids the rows hold, "" = they hold none
    """

    shard: int
    rows: int
    tokens: int
    fragments: tuple[str, ...] = ()
    documents: tuple[tuple[str, str, str, str, int, int], ...] = ()
    errors: tuple[tuple[str, str, str, str], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    tokenizer: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running job stands; `rate` in documents per second, `eta_s` None until there is one."""

    stage: str
    documents: int
    of: int
    chunks: int
    rate: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended. `index_version` 0 = nothing is published; `seconds` is wall time."""

    job_id: str
    state: Literal["succeeded", "cancelled", "planned"]
    index_version: int
    counts: Counts
    chunks: int
    tokens: int
    seconds: float
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    errors: tuple[tuple[str, str, str, str], ...] = ()
    run_id: str | None = None
    plan: Plan | None = None

    def to_json(self) -> dict[str, Any]:
        """CONTRACT section 2, `index --json`."""
        errors = [{"document_id": d, "source": s, "code": c, "message": m} for d, s, c, m in self.errors]
        return {
            **asdict(self),
            "documents": asdict(self.counts),
            "errors": errors,
            "plan": self.plan and self.plan.to_json(),
        }
