"""Page cursors: opaque to the caller, the last id of the page inside. Pure."""

from __future__ import annotations

import base64
import binascii

from tenants.errors import InvalidInput


def encode(last_id: str) -> str:
    """URL-safe, without padding."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def decode(cursor: str | None) -> str | None:
    """The id inside; raises `InvalidInput` for what `encode` did not make."""
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return raw.decode()
    except (binascii.Error, ValueError):
        raise InvalidInput.field("/cursor", "not a cursor that a page returned; start again without one") from None
