"""Small online writes: a few documents in, visible when the call returns. The stages of the line, inline. Ray-free.

Parsing and embedding run side by side in the callers' threads; their commits meet in one queue per tenant, which a
thread of its own empties while there is something in it: it takes the lease, commits everything that waits as one
version, and wakes the callers. So eight writers cost about two commits, first come is first served, and no document
is written twice: batches that share an id never share a commit, the later one wins.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pyarrow as pa

from jobs.evaluation.fusion_learning import learn_profile
from jobs.indexing.commit import Work, commit, prepare_table
from jobs.indexing.driver import INDEX_BYTES, current_line, make_context
from jobs.indexing.job import DEFAULT_COLLECTION, Receipt
from jobs.indexing.local import list_local
from jobs.indexing.manifest import load_manifest
from jobs.indexing.plan import Line
from jobs.indexing.reasons import ParseFailure, Reason
from jobs.indexing.rows import decode_row, parse_time
from jobs.indexing.source import Listed, SourceError, SourceItem, items_table
from jobs.indexing.stages import LineContext, chunk_parcel, embed_parcel, load_embed, parse_source
from jobs.indexing.write import write_rows
from services.settings import Settings
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.corpus.table import has_token_ids, open_latest, table_uri
from tenants.errors import Conflict, DeadlineExceeded, NotFound, QuotaExceeded
from tenants.ids import bytes_digest, new_job_id
from tenants.scope import Release, TenantScope
from tenants.store import Store

API_SOURCE = "api"  # the source root of documents that came over HTTP
MAX_TENANTS = 4_096
_GRACE_S = 5.0

EmbedTable = Callable[[pa.Table], pa.Table]


@dataclass(slots=True, eq=False)
class _Batch:
    """One caller's work in the queue; `done` is set with either outcome."""

    scope: TenantScope
    work: Work
    ids: frozenset[str]
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    release: Release | None = None
    failure: BaseException | None = None


@dataclass(slots=True)
class _Queue:
    """The batches of one tenant that wait for their commit, in order of arrival."""

    waiting: list[_Batch] = field(default_factory=list)
    led: bool = False


class BatchWriter:
    """Writes small batches for every tenant of this process. Thread-safe."""

    def __init__(
        self, settings: Settings, store: Store, embedders: Callable[[LineContext], EmbedTable] = load_embed
    ) -> None:
        self._settings = settings
        self._store = store
        self._load = embedders
        self._embedders: dict[str, EmbedTable] = {}
        self._queues: dict[str, _Queue] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def index_documents(
        self,
        scope: TenantScope,
        documents: Sequence[Mapping[str, Any]],
        uploads: Sequence[tuple[str, bytes]] = (),
        collection: str = DEFAULT_COLLECTION,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """`{indexed, unchanged, failed: [{document_id, code, message}], index_version}`, visible to the next search.

        `documents` hold id, text, title?, metadata?, updated_at?, url?; `uploads` are (name, content) of files of
        any format. The bytes to be read count against the tenant's quota of the day when the work begins. Raises
        `Conflict` when the tenant's embedder changed, `QuotaExceeded`, `InFlight`, `DeadlineExceeded`.
        """
        deadline = time.monotonic() + (timeout_s or self._settings.request_timeout_s)
        self._store.check_open(scope)
        line = current_line(scope, self._settings)
        release = releases.current(scope)
        if release is not None and release.table != line.table:
            raise Conflict("the tenant's embedder changed since the index was made; run an index job first")
        with _listed(documents, uploads, self._settings) as listed:
            fresh, unchanged, failed = _sorted_out(listed, scope, release, line, collection)
            if not fresh:
                return _answer(0, unchanged, failed, release)
            quota = scope.config.quotas.index_bytes_per_day
            self._store.spend_today(scope, INDEX_BYTES, sum(item.size for item in fresh), quota)
            context = make_context(scope, self._settings, "", self._table(scope, line, deadline), line, ())
            receipt = self._receipt(items_table(fresh, collection), context)
        failed += receipt.errors
        published = release
        if receipt.documents:
            published = self._submit(scope, Work(new_job_id(), line, (receipt,)), deadline)
        return _answer(len(receipt.documents), unchanged, failed, published)

    def delete_documents(
        self, scope: TenantScope, document_ids: Sequence[str], timeout_s: float | None = None
    ) -> dict[str, Any]:
        """`{index_version}` of a version without them. Raises `NotFound` when it holds none of them."""
        deadline = time.monotonic() + (timeout_s or self._settings.request_timeout_s)
        release = releases.current(scope)
        manifest = load_manifest(scope, release)
        known = pa.compute.is_in(manifest["document_id"], value_set=pa.array(document_ids, pa.string()))
        if release is None or not manifest.filter(known).num_rows:
            raise NotFound("the index holds no such document")
        line = Line(release.fingerprint, release.table, release.embedder, release.dimension)
        published = self._submit(scope, Work(new_job_id(), line, removed=tuple(document_ids)), deadline)
        return {"index_version": published.version if published else 0}

    def _table(self, scope: TenantScope, line: Line, deadline: float) -> str:
        uri = table_uri(scope, line.table)
        found = open_latest(uri)
        if found is None or not has_token_ids(found):
            with acquire(scope, "a small batch", wait_s=max(0.0, deadline - time.monotonic())):
                prepare_table(scope, line)
        return uri

    def _receipt(self, source: pa.Table, context: LineContext) -> Receipt:
        parcel = chunk_parcel(parse_source(source, 0, context), context)
        parcel = embed_parcel(parcel, self._embedder(context))
        fragments = write_rows(parcel.table, context.table_uri)
        tokens = sum(parcel.table["tokens"].to_pylist())
        told = (parcel.documents, parcel.errors, parcel.seconds, parcel.tokenizer)
        return Receipt(0, parcel.table.num_rows, tokens, fragments, *told)

    def _embedder(self, context: LineContext) -> EmbedTable:
        with self._loading:
            if context.embedder not in self._embedders:
                self._embedders[context.embedder] = self._load(context)
            return self._embedders[context.embedder]

    def _submit(self, scope: TenantScope, work: Work, deadline: float) -> Release | None:
        """Wait for, or lead, the commit that takes `work`; gives the version that holds it."""
        ids = frozenset(row[0] for receipt in work.receipts for row in receipt.documents) | frozenset(work.removed)
        batch = _Batch(scope, work, ids, deadline)
        with self._lock:
            queue = self._queues.setdefault(scope.uid, _Queue())
            queue.waiting.append(batch)
            if not queue.led:
                queue.led = True
                threading.Thread(target=self._lead, args=(queue, scope), name=f"commits-{scope.uid}").start()
        if not batch.done.wait(max(0.0, deadline - time.monotonic())):
            self._withdraw(queue, batch)
        if batch.failure is not None:
            raise batch.failure
        return batch.release

    def _withdraw(self, queue: _Queue, batch: _Batch) -> None:
        """Take a batch whose time is over out of the queue; one whose commit has begun is waited for a little."""
        with self._lock:
            if batch in queue.waiting:
                queue.waiting.remove(batch)
                raise DeadlineExceeded("the write waited too long behind others and was not done; send it again")
        if not batch.done.wait(_GRACE_S):
            raise DeadlineExceeded("the write takes too long; look at the documents before sending it again")

    def _lead(self, queue: _Queue, scope: TenantScope) -> None:
        """Commit groups until nobody waits."""
        while group := self._next_group(queue, scope):
            try:
                outcome = _commit_group(group, self._store)
                for batch in group:
                    batch.release = outcome
            except Exception as error:  # noqa: BLE001 - this thread's outermost frame; every waiter raises it
                for batch in group:
                    batch.failure = error
            finally:
                for batch in group:
                    batch.done.set()

    def _next_group(self, queue: _Queue, scope: TenantScope) -> list[_Batch]:
        """The longest run of waiting batches with the same line and no id in common; [] ends the lead."""
        with self._lock:
            group: list[_Batch] = []
            taken: set[str] = set()
            for batch in queue.waiting:
                if taken & batch.ids or (group and batch.work.line != group[0].work.line):
                    break
                group.append(batch)
                taken |= batch.ids
            del queue.waiting[: len(group)]
            if not group:
                queue.led = False
                self._queues.pop(scope.uid, None)
            return group


def _commit_group(group: Sequence[_Batch], store: Store) -> Release | None:
    first = group[0]
    store.check_open(first.scope)  # before the lease, whose object would bring a dropped tenant's folder back
    receipts = tuple(receipt for batch in group for receipt in batch.work.receipts)
    removed = tuple(name for batch in group for name in batch.work.removed)
    work = replace(first.work, receipts=receipts, removed=removed)
    left = max(batch.deadline for batch in group) - time.monotonic()
    with acquire(first.scope, work.job_id, wait_s=max(0.0, left)) as lease:
        store.check_open(first.scope)
        return commit(first.scope, work, lease, learn_profile).release


@contextmanager
def _listed(
    documents: Sequence[Mapping[str, Any]], uploads: Sequence[tuple[str, bytes]], settings: Settings
) -> Iterator[list[Listed]]:
    """Documents and uploaded files as a listing; the files exist inside the `with` block."""
    with TemporaryDirectory(prefix="fathom-upload-") as folder:
        listed = [_row(document) for document in documents]
        for number, (name, content) in enumerate(uploads):
            listed.extend(_upload(Path(folder), number, name, content, settings))
        yield listed


def _row(document: Mapping[str, Any]) -> Listed:
    line = msgspec.json.encode(dict(document), order="deterministic")
    try:
        row = decode_row(line)
        return SourceItem(
            API_SOURCE, row.key, API_SOURCE, len(line), bytes_digest(line), "row", line, parse_time(row.updated_at)
        )
    except ParseFailure as failure:
        return SourceError(str(document.get("id", "")), failure.reason, failure.message, API_SOURCE)


def _upload(folder: Path, number: int, name: str, content: bytes, settings: Settings) -> Iterable[Listed]:
    """Store an upload under a name of ours, with the suffix of theirs, and list what is in it."""
    suffixes = "".join(Path(name).suffixes[-2:])
    safe = "".join(char for char in suffixes if char.isalnum() or char == ".")[-16:]
    path = folder / str(number) / f"upload{safe}"
    path.parent.mkdir()
    path.write_bytes(content)
    for item in list_local(str(path), settings.limits):
        renamed = item.document_id.replace(path.name, name, 1) if item.document_id.startswith(path.name) else None
        yield replace(item, document_id=renamed or item.document_id, source=API_SOURCE)


def _sorted_out(
    listed: Sequence[Listed], scope: TenantScope, release: Release | None, line: Line, collection: str
) -> tuple[list[SourceItem], int, list[tuple[str, str, str, str]]]:
    """(to do, number unchanged, error rows); the first of equal ids is taken."""
    known = _known(scope, release, [item.document_id for item in listed])
    fresh: dict[str, SourceItem] = {}
    unchanged, failed = set(), []
    for item in listed:
        before = known.get(item.document_id)
        if isinstance(item, SourceError):
            failed.append((item.document_id, item.source, item.reason.value, item.message))
        elif item.document_id in fresh or item.document_id in unchanged:
            failed.append(_duplicate(item, "the batch holds this id more than once; the first one was taken"))
        elif before is not None and before["source"] != API_SOURCE:
            failed.append(_duplicate(item, f"the id belongs to the source {before['source']}; delete it there first"))
        elif before is not None and (before["collection"], before["digest"], before["fingerprint"]) == (
            collection,
            item.digest,
            line.fingerprint,
        ):
            unchanged.add(item.document_id)
        else:
            fresh[item.document_id] = item
    _check_quota(scope, release, sum(name not in known for name in fresh))
    return list(fresh.values()), len(unchanged), failed


def _known(scope: TenantScope, release: Release | None, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    manifest = load_manifest(scope, release)
    hit = pa.compute.is_in(manifest["document_id"], value_set=pa.array(ids, pa.string()))
    return {row["document_id"]: row for row in manifest.filter(hit).to_pylist()}


def _duplicate(item: SourceItem, message: str) -> tuple[str, str, str, str]:
    return (item.document_id, item.source, Reason.DUPLICATE_ID.value, message)


def _check_quota(scope: TenantScope, release: Release | None, more: int) -> None:
    total = (release.documents if release else 0) + more
    if more and total > scope.config.quotas.documents:
        raise QuotaExceeded(
            f"the index would hold {total} documents, the tenant's quota is {scope.config.quotas.documents}; "
            "raise quotas.documents or delete some"
        )


def _answer(
    indexed: int, unchanged: int, failed: Sequence[tuple[str, str, str, str]], release: Release | None
) -> dict[str, Any]:
    rows = [{"document_id": d, "code": c, "message": m} for d, _, c, m in failed]
    version = release.version if release else 0
    return {"indexed": indexed, "unchanged": unchanged, "failed": rows, "index_version": version}
