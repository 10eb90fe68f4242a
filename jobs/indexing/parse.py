"""Listed sources → parsed documents and error rows: one table of `SOURCE_SCHEMA` in, two tables out.

JSONL rows and plain text formats are read here; every other format by a confined child process (`sandbox`).
Whatever a file does, it ends as a document or as an error row.
"""

from __future__ import annotations

import atexit
import json
import threading
from contextlib import ExitStack
from functools import lru_cache
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
_BUSY = threading.Lock()  # one table at a time in a process: the parser has one child


class Parser:
    """Parses tables of sources; holds the sandbox between them. Close it, or use it as a context manager.

    `fetcher` opens URLs; without one only paths of this machine are read.
    """

    def __init__(self, limits: Limits, fetcher: Fetcher | None = None) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self._copies = ExitStack()
        self._copy: tuple[str, str] | None = None
        self.sandbox = Sandbox(limits)

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process, drop the last copy."""
        self._copies.close()
        self._copy = None
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
            path, members = _member_path(item["uri"]) if item["kind"] == "member" else (item["uri"], [])
            return self._from_path(item, path, members)
        if self._fetcher is None:
            raise ParseFailure(Reason.FORBIDDEN_URL, "URLs are not read here")
        url, *members = item["uri"].split(MEMBER) if item["kind"] == "member" else [item["uri"]]
        document = self._from_path(item, self._copied(self._fetcher, url), members)
        return document | {"url": document["url"] or (url if url.startswith("http") else None)}

    def _copied(self, fetcher: Fetcher, url: str) -> str:
        """The path of a local copy; the last one is kept, because an archive's members come one after another."""
        if self._copy is None or self._copy[0] != url:
            self._copies.close()
            self._copy = None
            self._copy = (url, str(self._copies.enter_context(fetcher.local_copy(url))))
        return self._copy[1]

    def _from_path(self, item: dict[str, Any], path: str, members: list[str]) -> dict[str, Any]:
        name = PurePosixPath(item["document_id"].partition("?")[0]).name
        with Path(path).open("rb") as stream:
            head = stream.read(HEAD_BYTES)
            kind = detect(name, head)
            if not members and (kind in PLAIN or kind.startswith("code:")):
                data = head + stream.read()
                return _row(item, read_plain(data, kind, name, MAX_TEXT_CHARS), item["digest"] or bytes_digest(data))
        digest = item["digest"] or bytes_digest(Path(path).read_bytes())
        return _row(item, self.sandbox.parse(path, members, name), digest)


def parse_batch(table: pa.Table, limits: Limits, *, allow: tuple[str, ...] | None = ()) -> tuple[pa.Table, pa.Table]:
    """Parse one table with this process's own parser: (documents of `PARSED_SCHEMA`, failures of `ERROR_SCHEMA`).

    `allow` are the URL prefixes that may be read, None any (the operator's own job). The child stays for the next
    table and ends with this process.
    """
    with _BUSY:
        return _parser(limits, allow).parse(table)


@lru_cache(maxsize=2)
def _parser(limits: Limits, allow: tuple[str, ...] | None) -> Parser:
    parser = Parser(limits, Fetcher(limits, allow))
    atexit.register(parser.close)
    return parser


def _member_path(uri: str) -> tuple[str, list[str]]:
    """(path of the archive, names of the members down to the file); a folder's name may hold `!/` too."""
    parts = uri.split(MEMBER)
    cut = next((n for n in range(1, len(parts)) if Path(MEMBER.join(parts[:n])).is_file()), 1)
    return MEMBER.join(parts[:cut]), parts[cut:]


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
