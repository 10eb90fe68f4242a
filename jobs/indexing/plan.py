"""Listing × published manifest → what to do: new, changed, unchanged, gone; and the shards of the work.

Unchanged means the same digest under the same fingerprint: it costs no parsing and no embedding. The listing is
consumed as a stream; shards go to the job's folder as they fill, so that memory holds ids and digests only.
Nothing is decided from a listing that may be cut short: see `_confirm`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from blake3 import blake3

from jobs.indexing.job import Counts, IndexJob, Plan
from jobs.indexing.reasons import Reason
from jobs.indexing.schemas import SOURCE_SCHEMA
from jobs.indexing.source import Listed, SourceError, SourceItem, items_table
from tenants.config import TenantConfig
from tenants.corpus.objects import Objects
from tenants.errors import Conflict, NeedsConfirmation, QuotaExceeded
from tenants.ids import DIGEST_CHARS
from tenants.scope import Release

LINE_VERSION = 2  # raise it when parsing or chunking changes what a document becomes
SHARD_DOCUMENTS = 256
SHARD_BYTES = 4 << 20
SHARDS_BEFORE_LARGE = 64  # from here on shards are four times as large, so that a large job stays at few files
MAX_GONE_SHARE = 0.2
MIN_BYTES_PER_S = 100_000.0  # first guess of a job's rate, before any run was measured
_UNSURE = frozenset({Reason.MALFORMED, Reason.UNREADABLE, Reason.FETCH_FAILED, Reason.NOT_FOUND})

ErrorRow = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """What makes chunks: the line's version, the tenant's chunking and the embedder."""

    fingerprint: str
    table: str
    embedder: str
    dimension: int


@dataclass(slots=True)
class _Draft:
    """The plan while the listing runs."""

    shards: int = 0
    bytes: int = 0
    documents: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    seen: set[str] = field(default_factory=set)
    errors: list[ErrorRow] = field(default_factory=list)
    pending: list[SourceItem] = field(default_factory=list)
    pending_bytes: int = 0


def line_of(config: TenantConfig, embedder_fingerprint: str, dimension: int) -> Line:
    """Fingerprint of parser + chunker + embedder, and the table of the embedder's vectors.

    Chunks of different chunkings may share a table, vectors of different embedders never do.
    """
    chunking = config.chunking
    parts = json.dumps([LINE_VERSION, chunking.tokens, chunking.overlap, embedder_fingerprint])
    table = blake3(embedder_fingerprint.encode()).hexdigest()[:12]
    return Line(blake3(parts.encode()).hexdigest()[:DIGEST_CHARS], f"chunks_{table}", config.embedder, dimension)


def make_plan(
    job: IndexJob,
    listed: Iterable[Listed],
    manifest: pa.Table,
    release: Release | None,
    line: Line,
    config: TenantConfig,
    objects: Objects,
    roots: Sequence[str],
    admit: Callable[[int], object],
) -> Plan:
    """List, compare, store shards (unless `job.dry_run`) and the plan itself, last.

    `roots` are the source roots that the job reads, for an empty listing names none. `admit` is told the bytes that
    will be read, before the plan is stored: a plan that exists has been paid for. Raises `NeedsConfirmation`,
    `QuotaExceeded`, `Conflict`.
    """
    known = {
        row["document_id"]: (row["source"], row["collection"], row["digest"], row["fingerprint"])
        for row in manifest.select(["document_id", "source", "collection", "digest", "fingerprint"]).to_pylist()
    }
    draft = _Draft()
    for item in listed:
        _take(item, known, draft, job, line)
        if _is_full(draft):
            _flush(draft, job, objects)
    _flush(draft, job, objects)
    gone = [name for name, row in known.items() if row[0] in roots and name not in draft.seen] if job.sync else []
    _confirm(job, draft, gone, sum(row[0] in roots for row in known.values()))
    _check_quota(config, len(known), draft.new - len(gone))
    _check_left_behind(job, draft, known, gone, release, line)
    admit(draft.bytes)
    counts = Counts(draft.new, draft.changed, draft.unchanged, len(gone), len(draft.errors))
    plan = Plan(
        counts=counts,
        bytes=draft.bytes,
        seconds=round(draft.bytes / _rate(release), 1),
        shards=draft.shards,
        documents=draft.documents,
        fingerprint=line.fingerprint,
        table=line.table,
        embedder=line.embedder,
        dimension=line.dimension,
        base_version=release.version if release else 0,
        roots=tuple(roots),
    )
    if not job.dry_run:
        _store(job, plan, gone, draft.errors, objects)
    return plan


def load_plan(job: IndexJob, objects: Objects) -> Plan | None:
    """The plan of an earlier attempt, None when it did not get so far."""
    data = objects.get(f"{job.folder}/plan.json")
    return Plan.from_json(json.loads(data)) if data else None


def load_gone(folder: str, objects: Objects) -> tuple[str, ...]:
    """Ids that the plan deletes."""
    return tuple(json.loads(objects.get(f"{folder}/gone.json") or b"[]"))


def load_errors(folder: str, objects: Objects) -> tuple[ErrorRow, ...]:
    """What could not be listed."""
    rows = json.loads(objects.get(f"{folder}/errors.json") or b"[]")
    return tuple((row[0], row[1], row[2], row[3]) for row in rows)


def shard_key(folder: str, shard: int) -> str:
    """Where shard `shard` lies below the tenant's base."""
    return f"{folder}/shards/{shard:06d}.arrow"


def load_shard(folder: str, shard: int, objects: Objects) -> pa.Table:
    """The documents of one shard, `SOURCE_SCHEMA`."""
    data = objects.get(shard_key(folder, shard))
    if data is None:
        raise Conflict("the job's work was cleared away, as erasing documents does; start the job again")
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def _take(item: Listed, known: dict[str, tuple[str, str, str, str]], draft: _Draft, job: IndexJob, line: Line) -> None:
    if isinstance(item, SourceError):
        draft.seen.add(item.document_id)
        draft.errors.append((item.document_id, item.source, item.reason.value, item.message))
        return
    before = known.get(item.document_id)
    if reason := _claimed(item, before, draft):
        draft.errors.append((item.document_id, item.source, Reason.DUPLICATE_ID.value, reason))
        return
    draft.seen.add(item.document_id)
    if before == (item.source, job.collection, item.digest, line.fingerprint):
        draft.unchanged += 1
        return
    draft.new += before is None
    draft.changed += before is not None
    draft.documents += 1
    draft.bytes += item.size
    draft.pending.append(item)
    draft.pending_bytes += item.size


def _claimed(item: SourceItem, before: tuple[str, str, str, str] | None, draft: _Draft) -> str:
    """Why this item cannot have its id; "" when it can. The first of a listing keeps it."""
    if item.document_id in draft.seen:
        return "the job lists this id more than once; the first one was taken, rename the others"
    if before is not None and before[0] != item.source:
        return f"the id belongs to the source {before[0]}; delete it there, or rename this document"
    return ""


def _is_full(draft: _Draft) -> bool:
    factor = 1 if draft.shards < SHARDS_BEFORE_LARGE else 4
    return len(draft.pending) >= SHARD_DOCUMENTS * factor or draft.pending_bytes >= SHARD_BYTES * factor


def _flush(draft: _Draft, job: IndexJob, objects: Objects) -> None:
    if not draft.pending:
        return
    if not job.dry_run:
        objects.put(shard_key(job.folder, draft.shards), shard_bytes(items_table(draft.pending, job.collection)))
    draft.shards += 1
    draft.pending, draft.pending_bytes = [], 0


def shard_bytes(table: pa.Table) -> bytes:
    """A shard as an Arrow stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, SOURCE_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table.cast(SOURCE_SCHEMA))
    return sink.getvalue()


def _confirm(job: IndexJob, draft: _Draft, gone: Sequence[str], owned: int) -> None:
    """Deletions that could come from a broken listing run only with `yes`."""
    if job.yes or job.dry_run or not gone:
        return
    if len(gone) > MAX_GONE_SHARE * owned:
        raise NeedsConfirmation(
            f"{len(gone)} of the source's {owned} documents are gone from it; repeat with --yes to delete them"
        )
    if any(code in _UNSURE for _, _, code, _ in draft.errors):
        raise NeedsConfirmation(
            f"part of the source could not be listed, so {len(gone)} documents may only seem gone; "
            "mend the source, or repeat with --yes to delete them"
        )


def _check_quota(config: TenantConfig, before: int, more: int) -> None:
    """What does not grow the index is never refused: a lowered quota must not stop its mending."""
    documents = before + more
    if more > 0 and documents > config.quotas.documents:
        raise QuotaExceeded(
            f"the index would hold {documents} documents, the tenant's quota is {config.quotas.documents}; "
            "raise quotas.documents or index fewer"
        )


def _check_left_behind(
    job: IndexJob,
    draft: _Draft,
    known: dict[str, tuple[str, str, str, str]],
    gone: Sequence[str],
    release: Release | None,
    line: Line,
) -> None:
    """A new embedder needs a new table; documents that this job does not list would not come along."""
    if release is None or release.table == line.table or job.yes or job.dry_run:
        return
    left = {row[0] for name, row in known.items() if name not in draft.seen} - {known[name][0] for name in gone}
    if left:
        raise NeedsConfirmation(
            f"the embedder changed, so every source is read anew; list {', '.join(sorted(left)[:5])} too, "
            "or repeat with --yes to drop their documents"
        )


def _rate(release: Release | None) -> float:
    return float(release.profile.get("bytes_per_s") or MIN_BYTES_PER_S) if release else MIN_BYTES_PER_S


def _store(job: IndexJob, plan: Plan, gone: Sequence[str], errors: Sequence[ErrorRow], objects: Objects) -> None:
    objects.put(f"{job.folder}/gone.json", json.dumps(gone).encode())
    objects.put(f"{job.folder}/errors.json", json.dumps(errors).encode())
    objects.put_new(f"{job.folder}/plan.json", json.dumps(plan.to_json()).encode())
