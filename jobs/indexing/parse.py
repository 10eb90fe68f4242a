"""Listed sources → parsed documents and error rows: one table of `SOURCE_SCHEMA` in, two tables out.

JSONL rows and plain text formats are read here; every other format by a confined child process (`sandbox`).
Whatever a file does, it ends as a document or as an error row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from jobs.indexing.clean import clean
from jobs.indexing.formats.detect import HEAD_BYTES, detect
from jobs.indexing.formats.document import Parsed, one_line
from jobs.indexing.formats.plain import read_plain
from jobs.indexing.reasons import ParseFailure, Reason
from jobs.indexing.rows import decode_row, parse_time
from jobs.indexing.schemas import ERROR_SCHEMA, PARSED_SCHEMA
from services.settings import Limits
from tenants.ids import bytes_digest

MAX_TEXT_CHARS = 200 * 1024 * 1024
PLAIN = ("markdown", "rst", "text")


def parse_batch(table: pa.Table, limits: Limits) -> tuple[pa.Table, pa.Table]:
    """Parse every row of `table`; gives (documents of `PARSED_SCHEMA`, failures of `ERROR_SCHEMA`)."""
    documents: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for item in table.to_pylist():
        try:
            documents.extend(_parse(item, limits))
        except ParseFailure as failure:
            errors.append(
                {"document_id": item["document_id"], "reason": failure.reason.value, "message": failure.message}
            )
    return (
        pa.Table.from_pylist(documents, schema=PARSED_SCHEMA),
        pa.Table.from_pylist(errors, schema=ERROR_SCHEMA),
    )


def _parse(item: dict[str, Any], limits: Limits) -> Iterator[dict[str, Any]]:
    if item["kind"] == "row":
        yield _document(item, _from_row(item["payload"]), item["digest"])
        return
    data = Path(item["uri"]).read_bytes()
    name = PurePosixPath(item["document_id"]).name
    kind = detect(name, data[:HEAD_BYTES])
    if kind in PLAIN or kind.startswith("code:"):
        yield _document(item, read_plain(data, kind, name, MAX_TEXT_CHARS), item["digest"] or bytes_digest(data))
        return
    raise ParseFailure(Reason.UNSUPPORTED, f"the format {kind} is not read")


def _from_row(line: bytes) -> Parsed:
    row = decode_row(line)
    text = clean(row.text)
    if not text or text.isspace():
        raise ParseFailure(Reason.EMPTY, "the row's `text` is empty")
    return Parsed(
        text,
        "text",
        one_line(row.title or ""),
        metadata=row.metadata or {},
        url=row.url,
        updated_at=parse_time(row.updated_at),
    )


def _document(item: dict[str, Any], parsed: Parsed, digest: str) -> dict[str, Any]:
    return {
        "document_id": item["document_id"],
        "source": item["source"],
        "collection": item["collection"],
        "title": parsed.title,
        "text": parsed.text,
        "spans": [
            {"start": s.start, "end": s.end, "page": s.page, "t_start_s": s.t_start_s, "heading": s.heading}
            for s in parsed.spans
        ],
        "format": parsed.format,
        "url": parsed.url,
        "updated_at": parsed.updated_at or item["updated_at"],
        "metadata": json.dumps(parsed.metadata, ensure_ascii=False, sort_keys=True),
        "document_digest": digest,
        "language": parsed.language,
    }
