"""Keys in the control plane: make, list, revoke, authenticate; and the short-lived cache in front of it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from cachetools import TTLCache
from sqlalchemy import Row, func, select, update
from sqlalchemy.exc import IntegrityError as ConstraintViolated

from tenants import keys
from tenants.errors import InvalidInput, NotFound, Unauthenticated
from tenants.records import Credential, KeyInfo, Owner
from tenants.rows import Rows, known
from tenants.tables import KEYS, TENANTS
from tenants.tenant_rows import tenant_of

_NO_SUCH_DIGEST = "0" * 64
_INFO = tuple(KEYS.c[name] for name in KeyInfo.__dataclass_fields__)
_WITH_TENANT = select(TENANTS, KEYS.c.key_id, KEYS.c.scope, KEYS.c.digest, KEYS.c.expires_at, KEYS.c.revoked_at).join(
    KEYS, KEYS.c.uid == TENANTS.c.uid
)


class KeyRows(Rows):
    """A tenant's keys. The plain key is given out once and never stored."""

    def add_key(self, tenant: Owner, scope: str, expires_at: datetime | None = None) -> tuple[str, KeyInfo]:
        """(plain key, its description). Raises `NotFound` when the tenant is gone, `InvalidInput` for the scope."""
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise InvalidInput.field("/expires", "the expiry lies in the past; give a later one, such as 90d")
        key, info = keys.new_key(), KeyInfo("", keys.key_scope(scope), now, expires_at, None, None)
        row = {"key_id": key.key_id, "uid": tenant.uid, "digest": keys.digest(key.secret, self._pepper())}
        times = {"created_at": now, "expires_at": expires_at}
        try:
            with self._database.writing() as connection:
                connection.execute(KEYS.insert().values(**row, **times, scope=info.scope))
        except ConstraintViolated:
            raise NotFound("there is no such tenant") from None
        return key.text, KeyInfo(key.key_id, info.scope, now, expires_at, None, None)

    def list_keys(self, tenant: Owner) -> list[KeyInfo]:
        """Oldest first, revoked ones too."""
        query = select(*_INFO).where(KEYS.c.uid == tenant.uid).order_by(KEYS.c.created_at, KEYS.c.key_id)
        with self._database.reading() as connection:
            return [KeyInfo(*row) for row in connection.execute(query)]

    def revoke_key(self, tenant: Owner, key_id: str) -> None:
        """Final; again is no error. Raises `NotFound` for a key that is not this tenant's."""
        ours = (KEYS.c.key_id == known(key_id, "key")) & (KEYS.c.uid == tenant.uid)
        revoked = func.coalesce(KEYS.c.revoked_at, self._clock(), type_=KEYS.c.revoked_at.type)
        with self._database.writing() as connection:
            if connection.execute(update(KEYS).where(ours).values(revoked_at=revoked)).rowcount == 0:
                raise NotFound("there is no such key")

    def authenticate(self, plain_key: str) -> Credential:
        """One indexed read. Raises `Unauthenticated` for a key that is malformed, unknown, revoked or expired."""
        key = keys.parse_key(plain_key)
        query = _WITH_TENANT.where(KEYS.c.key_id == key.key_id)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        # An unknown id is verified too, so that the time taken tells nothing.
        genuine = keys.verify(key.secret, self._pepper(), row.digest if row else _NO_SUCH_DIGEST)
        if row is None or not genuine or row.revoked_at is not None:
            raise Unauthenticated("the API key is unknown or revoked; ask the operator for another")
        if row.expires_at is not None and row.expires_at <= self._clock():
            raise Unauthenticated("the API key has expired; ask the operator for another")
        return _credential(row)

    def note_key_use(self, last_used: Mapping[str, datetime]) -> None:
        """Write down when keys were last used, by key id; for a background loop, never on the request path."""
        with self._database.writing() as connection:
            for key_id, when in last_used.items():
                connection.execute(update(KEYS).where(KEYS.c.key_id == key_id).values(last_used_at=when))


class KeyCache:
    """`KeyRows.authenticate` remembered for `ttl_s` (at most 1 s), so that a revoked key dies within that time.

    Keys are remembered by their SHA-256. Refusals are remembered too, outages never. Thread-safe.
    """

    def __init__(
        self, store: KeyRows, ttl_s: float = 1.0, size: int = 4_096, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: TTLCache[bytes, Credential | Unauthenticated] = TTLCache(size, min(ttl_s, 1.0), timer)
        self._used: dict[str, datetime] = {}

    def cached(self, plain_key: str) -> Credential | None:
        """The remembered credential, or None: then call `authenticate`, which reads the database.

        Raises `Unauthenticated` for a remembered refusal.
        """
        with self._lock:
            found = self._known.get(_fingerprint(plain_key))
            if isinstance(found, Credential):
                self._used[found.key_id] = self._store._clock()  # noqa: SLF001  # one clock for both
        if isinstance(found, Unauthenticated):
            raise Unauthenticated(found.detail)
        return found

    def authenticate(self, plain_key: str) -> Credential:
        """Raises `Unauthenticated`, `Unavailable`."""
        found = self.cached(plain_key)
        return found if found is not None else self._ask(plain_key)

    def flush_use(self) -> None:
        """Hand the collected times of use to the store; call it every minute or so, off the request path."""
        with self._lock:
            used, self._used = self._used, {}
        if used:
            self._store.note_key_use(used)

    def _ask(self, plain_key: str) -> Credential:
        try:
            answer = self._store.authenticate(plain_key)
        except Unauthenticated as error:
            with self._lock:
                self._known[_fingerprint(plain_key)] = error
            raise
        with self._lock:
            self._known[_fingerprint(plain_key)] = answer
            self._used[answer.key_id] = self._store._clock()  # noqa: SLF001
        return answer


def _credential(row: Row[Any]) -> Credential:
    tenant = tenant_of(row)
    return Credential(tenant, row.key_id, row.scope, row.expires_at)


def _fingerprint(plain_key: str) -> bytes:
    return hashlib.sha256(plain_key.encode("utf-8", "replace")).digest()
