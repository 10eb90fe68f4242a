"""Why a file, archive member or row did not become a document: the reason codes of a job's error table. Pure."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One word a program can rely on; `docs/SOURCES.md` lists them for people."""

    TOO_LARGE = "too_large"  # above the limit for raw bytes, unpacked bytes or extracted text
    ZIP_BOMB = "zip_bomb"  # unpacks to more than the allowed ratio
    TOO_MANY_MEMBERS = "too_many_members"
    NESTED_TOO_DEEP = "nested_too_deep"  # archives within archives, or JSON within JSON
    ENCRYPTED = "encrypted"
    MALFORMED = "malformed"  # the format's own reader cannot make sense of it
    ENCODING = "encoding"  # no known character encoding fits
    UNSUPPORTED = "unsupported"  # a format that Fathom does not read
    EMPTY = "empty"  # no text in it
    TIMEOUT = "timeout"  # the parser ran longer than `limits.parser_seconds`
    MEMORY = "memory"  # the parser needed more than `limits.parser_memory_bytes`
    CRASHED = "crashed"  # the parser's process died
    INVALID_ID = "invalid_id"
    DUPLICATE_ID = "duplicate_id"
    OUTSIDE_ROOT = "outside_root"  # a link or a member name that leaves the source's root
    NOT_FOUND = "not_found"
    UNREADABLE = "unreadable"  # permission, I/O error
    FORBIDDEN_URL = "forbidden_url"  # not below `ingest.allow`, or an address that is not public
    FETCH_FAILED = "fetch_failed"  # the server answered with an error, or not at all


class ParseFailure(Exception):
    """Raised by a reader of untrusted input; becomes an error row, never ends a job."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message[:500]

    def __reduce__(self) -> tuple[type[ParseFailure], tuple[Reason, str]]:
        return type(self), (self.reason, self.message)
