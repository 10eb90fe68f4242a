"""What the store's parts share: the open database, the clock, and how pages and identifiers from outside are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from tenants.database import Database
from tenants.errors import InvalidInput, NotFound, Unavailable
from tenants.records import Owner
from tenants.tables import TENANTS

MAX_PAGE = 1_000
_IDENTIFIER = re.compile(r"[\x21-\x7e]{1,255}\Z")

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The store's default clock."""
    return datetime.now(UTC)


class Rows:
    """Base of the store's parts."""

    def __init__(self, database: Database, pepper: bytes | None, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._pepper_bytes = pepper

    def _pepper(self) -> bytes:
        if not self._pepper_bytes:
            raise Unavailable("the control plane was opened without its pepper; open it with one to use keys")
        return self._pepper_bytes


def hold(connection: Connection, tenant: Owner) -> None:
    """Let one writer at a time change what hangs on this tenant. Raises `NotFound` when it is gone."""
    row = select(TENANTS.c.uid).where(TENANTS.c.uid == tenant.uid).with_for_update()
    if connection.execute(row).scalar_one_or_none() is None:
        raise NotFound("there is no such tenant")


def known(identifier: str, what: str) -> str:
    """An id that came from outside. One that cannot exist is unknown, and never reaches the database."""
    if not _IDENTIFIER.match(identifier):
        raise NotFound(f"there is no such {what}")
    return identifier


def page_start(cursor: str | None) -> int | None:
    """The serial number that a page begins after; raises `InvalidInput` for a cursor we did not give."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise InvalidInput.field("/cursor", "this is not a cursor of this list; start again without one")
    return int(cursor)


def page_size(limit: int) -> int:
    """1 to 1,000 rows."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput.field("/limit", f"a page has 1-{MAX_PAGE} rows")
    return limit


def to_json(value: Mapping[str, Any]) -> str:
    """ASCII text; raises `InvalidInput` for what JSON cannot say."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the value cannot be stored as JSON: {error}") from None


def plain(text: str, limit: int) -> str:
    """Text that every database can hold: no NUL, no lone surrogate, at most `limit` characters."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:limit]
