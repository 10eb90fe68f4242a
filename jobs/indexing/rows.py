"""One line of a JSONL source ↔ one document. Pure; hundreds of thousands of lines a second."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec

from jobs.indexing.reasons import ParseFailure, Reason
from tenants.errors import InvalidInput
from tenants.ids import document_id

MAX_DEPTH = 32


class Row(msgspec.Struct, frozen=True):
    """What a line may hold; other keys are ignored. `_id` wins over `id`; numbers are taken as their text."""

    text: str
    id_: str | int | None = msgspec.field(default=None, name="_id")
    id: str | int | None = None
    title: str | None = None
    metadata: dict[str, Any] | None = None
    updated_at: str | int | float | None = None
    url: str | None = None

    @property
    def key(self) -> str:
        """The document id, checked. Raises `ParseFailure` (`invalid_id`)."""
        raw = self.id if self.id_ is None else self.id_
        if raw is None:
            raise ParseFailure(Reason.INVALID_ID, "the row has no `_id` or `id`; give each document one")
        try:
            return document_id(str(raw))
        except InvalidInput as error:
            raise ParseFailure(Reason.INVALID_ID, error.detail) from None


_DECODER = msgspec.json.Decoder(Row)


def decode_row(line: bytes) -> Row:
    """Decode one line. Raises `ParseFailure`: `malformed`, `nested_too_deep`, `empty`."""
    try:
        row = _DECODER.decode(line)
    except msgspec.ValidationError as error:
        raise ParseFailure(Reason.MALFORMED, f"the row is no document: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ParseFailure(Reason.MALFORMED, f"the line is no JSON object: {error}") from None
    except RecursionError:
        raise ParseFailure(Reason.NESTED_TOO_DEEP, "the row's JSON is nested too deep") from None
    if row.metadata and _depth_exceeds(row.metadata, MAX_DEPTH):
        raise ParseFailure(Reason.NESTED_TOO_DEEP, f"the row's metadata is nested deeper than {MAX_DEPTH}")
    if not row.text or row.text.isspace():
        raise ParseFailure(Reason.EMPTY, "the row's `text` is empty")
    return row


def parse_time(raw: str | int | float | None) -> datetime | None:
    """ISO 8601 text, or seconds since 1970, as UTC; a time without zone is UTC. None when it is no time."""
    if raw is None or raw == "":
        return None
    try:
        if isinstance(raw, str):
            moment = datetime.fromisoformat(raw.strip())
        elif math.isfinite(raw):
            moment = datetime.fromtimestamp(raw, UTC)
        else:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _depth_exceeds(value: Any, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    if depth == 0:
        return True
    return any(_depth_exceeds(inner, depth - 1) for inner in (value.values() if isinstance(value, dict) else value))
