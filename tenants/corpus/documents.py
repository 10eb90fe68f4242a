"""The documents of a published version, one by one: what `GET …/documents` shows. Reads only.

The manifest says which documents there are and how many chunks each has; title, address and metadata come from
each document's first chunk. Filters are Arrow expressions, never text.
"""

from __future__ import annotations

import io
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tenants.corpus.objects import open_objects
from tenants.errors import IntegrityError, NotFound, Unavailable
from tenants.scope import Release, TenantScope

_MANIFEST = ["document_id", "collection", "digest", "chunks"]
_DETAILS = ["document_id", "title", "url", "updated_at", "metadata"]


def list_documents(scope: TenantScope, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` documents whose id sorts after `after`, by id; empty without a release."""
    if scope.release is None:
        return []
    ids, manifest = _manifest(scope.base, scope.release.manifest)
    start = 0 if after is None else bisect_right(ids, after)
    page = manifest.slice(start, limit).to_pylist()
    details = _details(scope, scope.release, [row["document_id"] for row in page])
    return [_document(row, details.get(row["document_id"], {})) for row in page]


def get_document(scope: TenantScope, document_id: str) -> dict[str, Any]:
    """One document; raises `NotFound`."""
    if scope.release is not None:
        ids, manifest = _manifest(scope.base, scope.release.manifest)
        place = bisect_right(ids, document_id) - 1
        if place >= 0 and ids[place] == document_id:
            details = _details(scope, scope.release, [document_id])
            return _document(manifest.slice(place, 1).to_pylist()[0], details.get(document_id, {}))
    raise NotFound("the published version holds no such document")


@lru_cache(maxsize=8)
def _manifest(base: str, key: str) -> tuple[list[str], pa.Table]:
    """(ids in order, the rows in that order). Named by its digest, so what is cached never goes stale."""
    data = open_objects(base).get(key)
    if data is None:
        raise IntegrityError("the manifest of the published version is missing; roll back to another version")
    table = pq.read_table(io.BytesIO(data), columns=_MANIFEST)
    # Python's order of strings is by code point, and so is the order of their UTF-8 bytes that Arrow sorts by.
    ordered = table.sort_by("document_id").combine_chunks()
    return ordered["document_id"].to_pylist(), ordered


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
