"""API keys: make, read, hash, verify; what a scope may do; how an expiry is written. Pure.

A key is `fk_<key id>_<secret>_<crc>`: 12 and 64 hex digits and a CRC-32 over what stands before it, so that a
mistyped or cut key is refused without a database and secret scanners can recognise one. Only
HMAC-SHA-256(pepper, secret) is stored. The secret has 256 random bits, so a slow password hash would add
nothing (there is no dictionary to try); the pepper makes a stolen database worthless for offline use.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from tenants.errors import InvalidInput, Unauthenticated

Scope = Literal["query", "index", "admin"]

_RANK: dict[str, int] = {"query": 1, "index": 2, "admin": 3}
_KEY = re.compile(r"(fk_([0-9a-f]{12})_([0-9a-f]{64}))_([0-9a-f]{8})\Z")
_DURATION = re.compile(r"([0-9]{1,6})\s*([smhdw])\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Key:
    """A key taken apart; `secret` is what is hashed, never stored."""

    key_id: str
    secret: str

    @property
    def text(self) -> str:
        """What the user is shown once."""
        head = f"fk_{self.key_id}_{self.secret}"
        return f"{head}_{_crc(head)}"

    def __repr__(self) -> str:
        return f"Key(key_id={self.key_id!r})"  # a log line must never hold the secret


def new_key() -> Key:
    """48 random bits of id, 256 of secret."""
    return Key(key_id=secrets.token_hex(6), secret=secrets.token_hex(32))


def parse_key(text: str) -> Key:
    """Raises `Unauthenticated` when the text is no key or its check sum is wrong."""
    match = _KEY.match(text)
    if match is None or _crc(match[1]) != match[4]:
        raise Unauthenticated("this is not a Fathom API key; send `Authorization: Bearer fk_…`")
    return Key(key_id=match[2], secret=match[3])


def digest(secret: str, pepper: bytes) -> str:
    """HMAC-SHA-256, 64 hex digits."""
    return hmac.new(pepper, secret.encode(), hashlib.sha256).hexdigest()


def verify(secret: str, pepper: bytes, stored: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(digest(secret, pepper), stored)


def key_scope(raw: str) -> Scope:
    """Raises `InvalidInput` naming the three scopes."""
    for scope in get_args(Scope):
        if raw == scope:
            return scope  # type: ignore[no-any-return]  # get_args is untyped
    raise InvalidInput.field("/scope", "a key's scope is query, index or admin")


def allows(held: Scope, needed: Scope) -> bool:
    """`admin` ⊃ `index` ⊃ `query`."""
    return _RANK[held] >= _RANK[needed]


def expiry(text: str | None, now: datetime) -> datetime | None:
    """`90d`, `12h`, `30m`, `45s`, `2w` from `now`, or an ISO 8601 time (UTC where it names no zone); None = never.

    Raises `InvalidInput` for anything else and for a time that has passed.
    """
    if text is None:
        return None
    when = _moment(text.strip(), now)
    if when <= now:
        raise InvalidInput.field("/expires", "the expiry lies in the past; give a later one, such as 90d")
    return when


def _moment(text: str, now: datetime) -> datetime:
    match = _DURATION.match(text)
    try:
        if match:
            return now + timedelta(seconds=int(match[1]) * _UNIT_S[match[2]])
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput.field("/expires", "an expiry is a duration like 90d or 12h, or an ISO 8601 time") from None


def _crc(head: str) -> str:
    return f"{zlib.crc32(head.encode()):08x}"
