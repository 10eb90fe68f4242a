"""What the gateway knows of one request beside its body: id, tenant, route, headers to send back. Pure.

`RequestContext` rides in the ASGI scope, is written by the dependencies and read by the outermost middleware
when it sends headers, logs and counts. It never holds a key or a document's text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}\Z")
_KEY = "fathom"


@dataclass(slots=True)
class RequestContext:
    """One request; `headers` are added to whatever answer leaves."""

    request_id: str
    tenant: str = ""
    key_id: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> RequestContext:
        """The context of this ASGI scope, made by the middleware."""
        context: RequestContext = scope[_KEY]
        return context

    def attach(self, scope: MutableMapping[str, Any]) -> None:
        """Put this context into the ASGI scope."""
        scope[_KEY] = self


def request_id(given: str | None) -> str:
    """The caller's `X-Request-Id` when it is 1-128 harmless characters, else a new one (`req_` + 96 bits)."""
    if given is not None and _REQUEST_ID.match(given):
        return given
    return "req_" + secrets.token_hex(12)
