"""Idempotency keys with Stripe's rules: the first request does the work, its repeats get the same answer.

A key is kept for 24 hours per caller. The same key with another body is refused (422); while the first request
is at work its repeats are told so (409); a request that died leaves the key locked for `LOCK` and then free.
Stored bodies may hold a new API key, so they are encrypted with a key derived from the pepper: who has only
the database cannot read them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from datetime import timedelta

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import ColumnElement, Connection, delete, select, update

from tenants.errors import InFlight, IntegrityError, InvalidInput
from tenants.records import StoredResponse
from tenants.rows import Rows, to_json
from tenants.tables import IDEMPOTENCY

KEEP = timedelta(hours=24)
LOCK = timedelta(minutes=10)
_KEY = re.compile(r"[\x20-\x7e]{1,255}\Z")


class IdempotencyRows(Rows):
    """`begin`, do the work, `finish`; or `abandon` when nothing was done."""

    def begin(self, caller: str, key: str, request_digest: str, tenant: str | None = None) -> StoredResponse | None:
        """None: the work is yours. Otherwise the answer to replay.

        `caller` is a tenant's uid or `admin`; `tenant` names the tenant that an admin's request is about, so that
        the row goes with it. Raises `InFlight` while another request works, `InvalidInput` for another body.
        """
        now = self._clock()
        row = {"caller": caller, "key": _checked(key), "tenant": tenant, "request_digest": request_digest}
        times = {"locked_until": now + LOCK, "expires_at": now + KEEP}
        insert = self._database.insert(IDEMPOTENCY).values(**row, **times).on_conflict_do_nothing()
        with self._database.writing() as connection:
            connection.execute(delete(IDEMPOTENCY).where(_stale(now)))
            if connection.execute(insert.returning(IDEMPOTENCY.c.key)).one_or_none() is not None:
                return None
            return self._stored(connection, caller, key, request_digest)

    def finish(self, caller: str, key: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Store the answer for the repeats; the first one stays."""
        values = {"status": status, "headers": to_json(headers), "body": self._cipher().encrypt(body)}
        mine = _of(caller, key) & IDEMPOTENCY.c.status.is_(None)
        with self._database.writing() as connection:
            connection.execute(update(IDEMPOTENCY).where(mine).values(**values))

    def abandon(self, caller: str, key: str) -> None:
        """Nothing was done (the request failed before it changed anything): free the key."""
        with self._database.writing() as connection:
            connection.execute(delete(IDEMPOTENCY).where(_of(caller, key) & IDEMPOTENCY.c.status.is_(None)))

    def _stored(self, connection: Connection, caller: str, key: str, request_digest: str) -> StoredResponse:
        row = connection.execute(select(IDEMPOTENCY).where(_of(caller, key))).one_or_none()
        if row is None:  # abandoned or expired between the two statements
            raise InFlight("the first request with this idempotency key has just ended; repeat now", retry_after_s=0)
        if not hmac.compare_digest(row.request_digest, request_digest):
            raise InvalidInput.field("/Idempotency-Key", "this key was used with another request; use a new one")
        if row.status is None:
            raise InFlight(
                "the first request with this idempotency key is still at work; repeat later", retry_after_s=1
            )
        try:
            body = self._cipher().decrypt(row.body)
        except InvalidToken:
            raise IntegrityError("a stored answer cannot be read; was the pepper changed?") from None
        return StoredResponse(row.status, json.loads(row.headers), body)

    def _cipher(self) -> Fernet:
        derived = hmac.new(self._pepper(), b"fathom idempotency bodies", hashlib.sha256).digest()
        return Fernet(base64.urlsafe_b64encode(derived))


def _of(caller: str, key: str) -> ColumnElement[bool]:
    return (IDEMPOTENCY.c.caller == caller) & (IDEMPOTENCY.c.key == key)


def _stale(now: object) -> ColumnElement[bool]:
    dead = IDEMPOTENCY.c.status.is_(None) & (IDEMPOTENCY.c.locked_until <= now)
    return (IDEMPOTENCY.c.expires_at <= now) | dead


def _checked(key: str) -> str:
    if not _KEY.match(key):
        raise InvalidInput.field("/Idempotency-Key", "an idempotency key is 1-255 printable ASCII characters")
    return key
