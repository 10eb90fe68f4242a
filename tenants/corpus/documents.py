"""The documents of a published version, one by one: what `GET …/documents` shows. Reads only.

The manifest says which documents there are and how many chunks each has; title, address and metadata come from
each document's first chunk. Filters are Arrow expressions, never text.
"""

from __future__ import annotations

import io
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cachetools import LRUCache

from tenants.corpus.objects import open_objects
from tenants.errors import IntegrityError, NotFound, Unavailable
from tenants.scope import Release, TenantScope

_MANIFEST = ["document_id", "collection", "digest", "chunks"]
_LIMIT_BYTES = 256 * 1024 * 1024  # of all tenants' manifests in this process
_READERS = 16
_DETAILS = ["document_id", "title", "url", "updated_at", "metadata"]


def list_documents(scope: TenantScope, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` documents whose id sorts after `after`, by id; empty without a release."""
    if scope.release is None:
        return []
    manifest = _MANIFESTS.get(scope.base, scope.release.manifest)
    start = 0 if after is None else _place(manifest, after)
    page = manifest.slice(start, limit).to_pylist()
    details = _details(scope, scope.release, [row["document_id"] for row in page])
    return [_document(row, details.get(row["document_id"], {})) for row in page]


def get_document(scope: TenantScope, document_id: str) -> dict[str, Any]:
    """One document; raises `NotFound`."""
    if scope.release is not None:
        manifest = _MANIFESTS.get(scope.base, scope.release.manifest)
        place = _place(manifest, document_id) - 1
        if place >= 0 and manifest["document_id"][place].as_py() == document_id:
            details = _details(scope, scope.release, [document_id])
            return _document(manifest.slice(place, 1).to_pylist()[0], details.get(document_id, {}))
    raise NotFound("the published version holds no such document")


class Manifests:
    """Manifests sorted by document id, the latest used up to `limit_bytes`; each is read once, whoever asks.

    Named by their digest, so what is kept never goes stale. Thread-safe; one larger than the limit is not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._kept: LRUCache[tuple[str, str], pa.Table] = LRUCache(limit_bytes, getsizeof=lambda table: table.nbytes)
        self._lock = Lock()
        self._reading = tuple(Lock() for _ in range(_READERS))

    def get(self, base: str, key: str) -> pa.Table:
        """The rows in the order of their ids. Raises `IntegrityError` where the file is missing."""
        name = (base, key)
        with self._reading[hash(name) % _READERS]:
            with self._lock:
                kept = self._kept.get(name)
            if kept is not None:
                return kept
            table = _read(base, key)
            with self._lock, suppress(ValueError):  # larger than the whole cache
                self._kept[name] = table
            return table


def _read(base: str, key: str) -> pa.Table:
    data = open_objects(base).get(key)
    if data is None:
        raise IntegrityError("the manifest of the published version is missing; roll back to another version")
    return pq.read_table(io.BytesIO(data), columns=_MANIFEST).sort_by("document_id").combine_chunks()


_MANIFESTS = Manifests(_LIMIT_BYTES)


def _place(manifest: pa.Table, document_id: str) -> int:
    """How many ids are at most `document_id`: Python's order of strings is Arrow's, code point by code point."""
    ids = manifest["document_id"]
    return bisect_right(range(manifest.num_rows), document_id, key=lambda row: ids[row].as_py())


def _details(scope: TenantScope, release: Release, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    if not ids:
        return {}
    wanted = pc.field("document_id").isin(pa.array(ids, pa.string())) & (pc.field("ordinal") == 0)
    try:
        dataset = lance.dataset(f"{scope.corpus_uri}/{release.table}.lance", version=release.lance_version)
        rows = dataset.to_table(columns=_DETAILS, filter=wanted).to_pylist()
    except (OSError, ValueError, RuntimeError) as error:
        raise Unavailable("the index cannot be read now; try again", retry_after_s=1) from error
    return {row["document_id"]: row for row in rows}


def _document(row: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    updated = details.get("updated_at")
    return {
        "id": row["document_id"],
        "title": details.get("title") or "",
        "collection": row["collection"],
        "chunks": row["chunks"],
        "digest": row["digest"],
        "updated_at": updated.isoformat() if updated else None,
        "url": details.get("url"),
        "metadata": json.loads(details.get("metadata") or "{}"),
    }
