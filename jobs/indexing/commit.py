"""Receipts → one commit → indices → published version. Runs in the driver, under the tenant's lease.

Everything before `release.publish` is invisible to readers; a crash anywhere leaves the old version serving, and
the next writer stands on it again. What is about to be published is counted document by document against the new
manifest, and no chunk id may repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import lance
import pyarrow as pa

from jobs.indexing.job import Receipt
from jobs.indexing.manifest import MANIFEST_SCHEMA, load_manifest, manifest_key, replaced, save_manifest
from jobs.indexing.plan import Line
from services.reranking.pairs import PairTokenizer
from tenants.corpus import release as releases
from tenants.corpus.indices import refresh
from tenants.corpus.lease import Lease
from tenants.corpus.objects import open_objects, sync_tree
from tenants.corpus.table import document_counts, ensure_table, replace_documents, retokenised, stand_on, table_uri
from tenants.errors import IntegrityError, QuotaExceeded
from tenants.scope import TOKENIZER, TURNOVER, Release, TenantScope

CLOCK_SLACK_S = 5.0
RELEARN_SHARE = 0.25  # learn the profile anew when this share of the chunks came or went since
KEEP_RELEASES = 32
RELEASES_BEFORE_TRIM = 64

Learn = Callable[[TenantScope], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Work:
    """What a job or a small batch brings to its commit.

    `removed` are ids that shall go; one that another source root took meanwhile stays (`roots` empty = any root).
    `tokenizer` makes every row's token ids its own, rows of earlier works included; None leaves what is there.
    """

    job_id: str
    line: Line
    receipts: Sequence[Receipt] = ()
    removed: Sequence[str] = ()
    roots: Sequence[str] = ()
    bytes_per_s: float | None = None
    tokenizer: PairTokenizer | None = None


@dataclass(slots=True)
class Committed:
    """The version now published (None: there never was anything), and the seconds of each step."""

    release: Release | None
    changed: bool
    deleted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def prepare_table(scope: TenantScope, line: Line) -> str:
    """Make the table exist, so that workers can write fragments for it; gives its address. Needs the lease."""
    uri = table_uri(scope, line.table)
    ensure_table(uri, line.dimension)
    return uri


def commit(scope: TenantScope, work: Work, lease: Lease, learn: Learn | None = None) -> Committed:
    """Publish `work` on top of the serving version. Without any change nothing is written.

    `learn` is called with the scope pinned to the version about to be published and gives entries of its profile.
    Raises `LeaseLost`, `IntegrityError`, `QuotaExceeded`.
    """
    began, clock = time.time(), _Clock()
    releases.repair(scope, lease)
    base = releases.current(scope)
    on_table = base if base is not None and base.table == work.line.table else None
    manifest = load_manifest(scope, on_table)
    added = _documents(work)
    removed = _removed(manifest, work)
    if base is not None and on_table is base and not added.num_rows and not removed and not _foreign(work, base):
        return Committed(base, changed=False, seconds=clock.seconds)
    dataset = stand_on(scope, on_table, work.line.table, work.line.dimension)
    changed_ids = [*removed, *_known(manifest, added)]
    fragments = [text for receipt in work.receipts for text in receipt.fragments]
    dataset = replace_documents(dataset, changed_ids, fragments)
    after = replaced(manifest, removed, added)
    _check_quota(scope, manifest.num_rows, after.num_rows)
    dataset, tokenizer = _one_tokenizer(dataset, work, on_table)
    tokens = verify(dataset, after)
    clock.lap("commit")
    lease.check()
    profile = dict(on_table.profile) if on_table else {}
    dataset, index = refresh(dataset, scope.config.languages, profile.get("vector_index"))
    clock.lap("index")
    profile |= {"vector_index": index.to_json(), TOKENIZER: tokenizer}
    profile |= {"bytes_per_s": work.bytes_per_s} if work.bytes_per_s else {}
    digest = save_manifest(open_objects(scope.base), after)
    release = _release(work, dataset, after, tokens, digest, profile)
    came = sum(receipt.rows for receipt in work.receipts)
    release = _learned(scope, turned_over(release, on_table, came), learn, came)
    clock.lap("learn")
    sync_tree(dataset.uri, began - CLOCK_SLACK_S)
    published = releases.publish(scope, release, lease)
    _trim_history(scope, lease)
    clock.lap("commit")
    return Committed(published, changed=True, deleted=len(removed), seconds=clock.seconds)


def verify(dataset: lance.LanceDataset, manifest: pa.Table) -> int:
    """Compare the table with the manifest, document by document; gives the tokens in it. Raises `IntegrityError`."""
    counts, repeated, tokens = document_counts(dataset)
    if repeated:
        raise IntegrityError(f"{repeated} chunks are stored twice; nothing was published, run the job again")
    expected = manifest.filter(pa.compute.greater(manifest["chunks"], 0)).select(["document_id", "chunks"])
    expected = expected.sort_by("document_id")
    same_ids = counts["document_id"].combine_chunks().equals(expected["document_id"].combine_chunks())
    if not same_ids or counts["chunks"].to_pylist() != expected["chunks"].to_pylist():
        raise IntegrityError(
            f"the table holds {counts.num_rows} documents, the manifest expects {expected.num_rows}, or their chunks "
            "differ; nothing was published, run the job again"
        )
    return tokens


def _foreign(work: Work, base: Release) -> bool:
    """Whether the rows hold other token ids than the work wants, or none."""
    return work.tokenizer is not None and base.chunks > 0 and base.profile.get(TOKENIZER) != work.tokenizer.digest


def _one_tokenizer(dataset: lance.LanceDataset, work: Work, on_table: Release | None) -> tuple[lance.LanceDataset, str]:
    """(the table, the digest of the tokenizer whose ids all of its rows hold, "" where they are not one's)."""
    digests = {receipt.tokenizer for receipt in work.receipts if receipt.rows}
    digests |= {str(on_table.profile.get(TOKENIZER, ""))} if on_table and on_table.chunks else set()
    digest = digests.pop() if len(digests) == 1 else ""
    if work.tokenizer is None or digest == work.tokenizer.digest:
        return dataset, digest
    return retokenised(dataset, work.tokenizer.ids), work.tokenizer.digest


class _Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now


def _check_quota(scope: TenantScope, before: int, documents: int) -> None:
    """The last word: other writers may have published since the work was planned."""
    if before < documents > scope.config.quotas.documents:
        raise QuotaExceeded(
            f"the index would hold {documents} documents, your quota is {scope.config.quotas.documents}; nothing was "
            "published, delete some or raise quotas.documents"
        )


def _documents(work: Work) -> pa.Table:
    """The manifest rows of the documents that come. Raises `IntegrityError` when two receipts claim one."""
    rows = [document for receipt in work.receipts for document in receipt.documents]
    if len({row[0] for row in rows}) != len(rows):
        raise IntegrityError("two shards wrote the same document; nothing was published, start the job again")
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else ([],) * 6
    names, sources, collections, digests, sizes, chunks = (list(column) for column in columns)
    prints = [work.line.fingerprint] * len(rows)
    values = [names, sources, collections, digests, sizes, prints, chunks]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(values, MANIFEST_SCHEMA, strict=True)],
        schema=MANIFEST_SCHEMA,
    )


def _removed(manifest: pa.Table, work: Work) -> list[str]:
    """Those of `work.removed` that exist and are still owned by the work's roots."""
    wanted = manifest.filter(pa.compute.is_in(manifest["document_id"], value_set=pa.array(work.removed, pa.string())))
    if work.roots:
        wanted = wanted.filter(pa.compute.is_in(wanted["source"], value_set=pa.array(work.roots, pa.string())))
    return list(wanted["document_id"].to_pylist())


def _known(manifest: pa.Table, added: pa.Table) -> list[str]:
    """Documents of `added` that are in the table already, in an older form."""
    hit = pa.compute.is_in(manifest["document_id"], value_set=added["document_id"].combine_chunks())
    return list(manifest.filter(hit)["document_id"].to_pylist())


def _release(
    work: Work, dataset: lance.LanceDataset, manifest: pa.Table, tokens: int, digest: str, profile: Mapping[str, Any]
) -> Release:
    return Release(
        version=0,
        table=work.line.table,
        lance_version=dataset.version,
        fingerprint=work.line.fingerprint,
        embedder=work.line.embedder,
        dimension=work.line.dimension,
        published_at="",
        documents=manifest.num_rows,
        chunks=int(pa.compute.sum(manifest["chunks"]).as_py() or 0),
        tokens=tokens,
        manifest=manifest_key(digest),
        manifest_digest=digest,
        job_id=work.job_id,
        profile=profile,
    )


def turned_over(release: Release, base: Release | None, came: int) -> Release:
    """`release` with the chunks counted that came, and those that went since `base`: certificates end by this number.

    A document that changed counts twice: its old chunks went and new ones came.
    """
    before = (base.chunks, int(base.profile.get(TURNOVER, 0))) if base else (0, 0)
    went = max(0, before[0] + came - release.chunks)
    return replace(release, profile={**release.profile, TURNOVER: before[1] + came + went})


def _learned(scope: TenantScope, release: Release, learn: Learn | None, came: int) -> Release:
    """`release` with what was learned from its text, kept from the last version while little has changed."""
    changes = int(release.profile.get("changes_since_learned", 0)) + came
    due = "fusion" not in release.profile or changes > RELEARN_SHARE * release.chunks
    if learn is None or not due or not release.chunks:
        return replace(release, profile={**release.profile, "changes_since_learned": changes})
    learned = learn(replace(scope, release=release))
    return replace(release, profile={**release.profile, **learned, "changes_since_learned": 0})


def _trim_history(scope: TenantScope, lease: Lease) -> None:
    """Let only the newest versions be rolled back to, so that the log of a tenant that writes often stays short."""
    history = releases.list_releases(scope)
    if len(history) > RELEASES_BEFORE_TRIM:
        serving = releases.read_history(scope).serving
        old = [release.version for release in history[:-KEEP_RELEASES] if release.version != serving]
        releases.withdraw(scope, old, f"only the newest {KEEP_RELEASES} versions are kept", lease)
