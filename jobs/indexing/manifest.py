"""The manifest of a published version: one row a document, beside the corpus, named by its own digest.

| column      | meaning                                                        |
|-------------|----------------------------------------------------------------|
| document_id | unique                                                         |
| source      | the source root that owns the document                         |
| collection  | where it was indexed into                                      |
| digest      | of the document's bytes                                        |
| size        | bytes                                                          |
| fingerprint | of parser + chunker + embedder that made its chunks            |
| chunks      | how many rows of the corpus it has                             |
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from tenants.corpus.objects import Objects, open_objects
from tenants.errors import IntegrityError
from tenants.ids import DIGEST_CHARS
from tenants.scope import Release, TenantScope

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("collection", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("chunks", pa.int32(), nullable=False),
    ]
)


def manifest_key(digest: str) -> str:
    """Its place below the tenant's base."""
    return f"manifests/{digest}.parquet"


def load_manifest(scope: TenantScope, release: Release | None) -> pa.Table:
    """The manifest of `release`, empty without one. Raises `IntegrityError` when it is missing."""
    if release is None:
        return MANIFEST_SCHEMA.empty_table()
    data = open_objects(scope.base).get(release.manifest)
    if data is None:
        raise IntegrityError(f"the manifest of version {release.version} is missing; roll back to another version")
    return pq.read_table(io.BytesIO(data), schema=MANIFEST_SCHEMA)


def save_manifest(objects: Objects, manifest: pa.Table) -> str:
    """Store a manifest under its digest and return that; the same content is stored once."""
    digest = manifest_digest(manifest)
    key = manifest_key(digest)
    if objects.get(key) is None:
        sink = io.BytesIO()
        pq.write_table(manifest, sink, compression="zstd", write_statistics=False)
        objects.put(key, sink.getvalue())
    return digest


def manifest_digest(manifest: pa.Table) -> str:
    """128 bits of blake3 over the rows in order of document id, hex; equal for equal content."""
    hasher = blake3()
    ordered = manifest.select(MANIFEST_SCHEMA.names).sort_by("document_id").combine_chunks()
    with pa.ipc.new_stream(_Sink(hasher), MANIFEST_SCHEMA) as writer:
        writer.write_table(ordered)
    return str(hasher.hexdigest())[:DIGEST_CHARS]


def replaced(manifest: pa.Table, removed: Iterable[str], added: pa.Table) -> pa.Table:
    """`manifest` without the documents `removed` and those of `added`, and with `added`; in order of id."""
    drop = pa.concat_arrays([pa.array(list(removed), pa.string()), *added["document_id"].chunks])
    kept = manifest.filter(pc.invert(pc.is_in(manifest["document_id"], value_set=drop)))
    return pa.concat_tables([kept, added.select(MANIFEST_SCHEMA.names)]).sort_by("document_id")


class _Sink(io.RawIOBase):
    """A file that only hashes what is written to it."""

    def __init__(self, hasher: blake3) -> None:
        super().__init__()
        self._hasher = hasher

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]  # Arrow hands over buffers
        self._hasher.update(view)
        return view.nbytes
