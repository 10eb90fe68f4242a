"""Listed sources → parsed documents and error rows: one table of `SOURCE_SCHEMA` in, two tables out.

JSONL rows and plain text formats are read here; every other format by a confined child process (`sandbox`).
Whatever a file does, it ends as a document or as an error row.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from jobs.indexing.archive import MEMBER
from jobs.indexing.clean import clean
from jobs.indexing.fetch import Fetcher
from jobs.indexing.formats.detect import HEAD_BYTES, detect
from jobs.indexing.formats.document import Parsed, one_line
from jobs.indexing.formats.plain import read_plain
from jobs.indexing.reasons import ParseFailure, Reason
from jobs.indexing.rows import decode_row, parse_time
from jobs.indexing.sandbox import Sandbox
from jobs.indexing.schemas import ERROR_SCHEMA, PARSED_SCHEMA
from services.settings import Limits
from tenants.ids import bytes_digest

MAX_TEXT_CHARS = 200 * 1024 * 1024
PLAIN = ("markdown", "rst", "text")


class Parser:
    """Parses tables of sources; holds the sandbox between them. Close it, or use it as a context manager.

    `fetcher` opens URLs; without one only paths of this machine are read.
    """

    def __init__(self, limits: Limits, fetcher: Fetcher | None = None) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self.sandbox = Sandbox(limits)

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        self.sandbox.close()

    def parse(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Parse every row of `table`: (documents of `PARSED_SCHEMA`, failures of `ERROR_SCHEMA`)."""
        documents: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for item in table.to_pylist():
            try:
                documents.append(self._document(item))
            except ParseFailure as failure:
                errors.append(_error(item, failure))
            except OSError as error:
                reason = Reason.NOT_FOUND if isinstance(error, FileNotFoundError) else Reason.UNREADABLE
                errors.append(_error(item, ParseFailure(reason, f"the file cannot be read: {error.strerror or error}")))
        return (
            pa.Table.from_pylist(documents, schema=PARSED_SCHEMA),
            pa.Table.from_pylist(errors, schema=ERROR_SCHEMA),
        )

    def _document(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["kind"] == "row":
            return _row(item, _from_row(item["payload"]), item["digest"])
        if "://" not in item["uri"]:
            return self._from_path(item, item["uri"])
        if self._fetcher is None:
            raise ParseFailure(Reason.FORBIDDEN_URL, "URLs are not read here")
        with self._fetcher.local_copy(item["uri"]) as path:
            return self._from_path(item, str(path))

    def _from_path(self, item: dict[str, Any], uri: str) -> dict[str, Any]:
        path, *members = uri.split(MEMBER) if item["kind"] == "member" else [uri]
        name = PurePosixPath(item["document_id"]).name
        with Path(path).open("rb") as stream:
            head = stream.read(HEAD_BYTES)
            kind = detect(name, head)
            if not members and (kind in PLAIN or kind.startswith("code:")):
                data = head + stream.read()
                return _row(item, read_plain(data, kind, name, MAX_TEXT_CHARS), item["digest"] or bytes_digest(data))
        digest = item["digest"] or bytes_digest(Path(path).read_bytes())
        return _row(item, self.sandbox.parse(path, members, name), digest)


def parse_batch(table: pa.Table, limits: Limits, fetcher: Fetcher | None = None) -> tuple[pa.Table, pa.Table]:
    """Parse one table with a sandbox of its own; a job keeps a `Parser` instead."""
    with Parser(limits, fetcher) as parser:
        return parser.parse(table)


def _error(item: dict[str, Any], failure: ParseFailure) -> dict[str, Any]:
    return {"document_id": item["document_id"], "reason": failure.reason.value, "message": failure.message}


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


def _row(item: dict[str, Any], parsed: Parsed, digest: str) -> dict[str, Any]:
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
