"""Is the published index what it says it is? Counts, duplicates, indices, and a digest of the content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import lance
import pyarrow as pa
from blake3 import blake3

from jobs.indexing.commit import verify as verify_counts
from jobs.indexing.manifest import load_manifest, manifest_digest
from tenants.corpus import release as releases
from tenants.corpus.indices import TEXT_INDEX, text_found
from tenants.corpus.table import open_release
from tenants.errors import IntegrityError, NotFound
from tenants.scope import TenantScope

CONTENT = (
    "document_id", "collection", "source", "ordinal", "title", "heading", "text", "char_start",
    "char_end", "page", "t_start_s", "url", "metadata", "document_digest", "tokens", "language",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """A version that was found sound. `content` is the digest of every row, whatever file it lies in."""

    index_version: int
    documents: int
    chunks: int
    content: str
    text_found: float


def verify(scope: TenantScope) -> Report:
    """Check the serving version. Raises `IntegrityError` with what is wrong, `NotFound` when nothing is published."""
    release = releases.current(scope)
    if release is None:
        raise NotFound("nothing is indexed, so there is nothing to verify")
    dataset = open_release(scope, release)
    manifest = load_manifest(scope, release)
    if manifest_digest(manifest) != release.manifest_digest:
        raise IntegrityError("the manifest was changed after it was published; index the sources again")
    verify_counts(dataset, manifest)
    indexed = any(index.name == TEXT_INDEX for index in dataset.describe_indices())
    found = text_found(dataset) if indexed else 1.0
    return Report(release.version, manifest.num_rows, dataset.count_rows(), content_digest(dataset), found)


def content_digest(dataset: lance.LanceDataset, columns: Iterable[str] = CONTENT) -> str:
    """blake3 over the rows in order of document and place, hex: equal for equal content, however it was written.

    Chunk ids are left out, for they hold the tenant's name.
    """
    ordered = [("document_id", "ascending"), ("ordinal", "ascending")]
    rows = dataset.to_table(columns=[*columns]).sort_by(ordered).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return str(blake3(sink.getvalue()).hexdigest())
