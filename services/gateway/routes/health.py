"""Is the process alive, is the platform ready: no key needed, nothing of a tenant inside."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.gateway import replies
from services.gateway.auth import platform_of
from services.gateway.http import JSON, reply
from services.gateway.ports import Component

router = APIRouter(tags=["health"])


@router.get("/livez", responses={200: {"model": replies.Liveness, "description": "The process answers"}})
async def live(request: Request) -> Response:
    """The process answers."""
    return reply({"status": "ok", "version": platform_of(request).version})


@router.get(
    "/readyz",
    responses={
        200: {"model": replies.Readiness, "description": "Every component is ready that is not optional"},
        503: {
            "model": replies.Readiness,
            "description": "A component is not ready, and it is not optional",
        },
    },
)
async def ready(request: Request) -> Response:
    """Every component with its version, one a line."""
    components = await platform_of(request).components()
    up = all(component.ready or component.optional for component in components)
    return Response(lines(up, components), 200 if up else 503, None if up else {"Retry-After": "1"}, JSON)


def lines(up: bool, components: Sequence[Component]) -> bytes:
    """JSON for machines, one component a line for people."""
    rows = b",\n".join(b"  " + msgspec.json.encode(component) for component in components)
    return b'{"ready": %s, "components": [\n%s\n]}\n' % (b"true" if up else b"false", rows)
