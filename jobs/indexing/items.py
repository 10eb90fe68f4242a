"""One listed thing: a document to be, or why it cannot become one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import pyarrow as pa

from jobs.indexing.reasons import ParseFailure, Reason
from jobs.indexing.schemas import SOURCE_SCHEMA
from tenants.errors import InvalidInput
from tenants.ids import document_id


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One document to be; the fields are those of `schemas.SOURCE_SCHEMA`."""

    uri: str
    document_id: str
    source: str
    size: int
    digest: str | None
    kind: Literal["file", "row", "member"]
    payload: bytes | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SourceError:
    """One thing that cannot become a document; `document_id` is its path, or `path:line` of a row."""

    document_id: str
    reason: Reason
    message: str
    source: str = ""


Listed = SourceItem | SourceError


def items_table(items: Iterable[SourceItem], collection: str) -> pa.Table:
    """`items` as one table of `SOURCE_SCHEMA`."""
    rows = [
        {
            "document_id": item.document_id,
            "uri": item.uri,
            "source": item.source,
            "collection": collection,
            "kind": item.kind,
            "size": item.size,
            "digest": item.digest,
            "payload": item.payload,
            "updated_at": item.updated_at,
        }
        for item in items
    ]
    return pa.Table.from_pylist(rows, schema=SOURCE_SCHEMA)


def checked_id(name: str) -> str:
    """`name` as a document id. Raises `ParseFailure` (`invalid_id`)."""
    try:
        return document_id(name)
    except InvalidInput as error:
        raise ParseFailure(Reason.INVALID_ID, error.detail) from None
