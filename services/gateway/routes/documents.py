"""The tenant's documents and published versions: list, read, add small batches, delete, erase, roll back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from services import deadline
from services.gateway import bodies, replies
from services.gateway.admission import admitted, counted
from services.gateway.auth import Access, may, platform_of
from services.gateway.cursors import decode, encode
from services.gateway.http import TENANT_ERRORS, accepts, answers, repeatable, reply
from services.gateway.idempotency import Material, once
from services.gateway.ports import Platform, Upload
from services.gateway.uploads import read_uploads, written

router = APIRouter(prefix="/t/{tenant}/v1", tags=["documents"])

Reader = Annotated[Access, Depends(may("query"))]
Writer = Annotated[Access, Depends(may("index"))]
Owner = Annotated[Access, Depends(may("admin"))]
Cursor = Annotated[str | None, Query()]
_WRITE_ERRORS = (*TENANT_ERRORS, 409)


@router.get("/documents", responses=answers(replies.DocumentPage))
async def list_documents(
    request: Request,
    access: Reader,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> Response:
    """The published documents, by id."""
    platform = platform_of(request)
    counted(platform, access, request)
    after = decode(cursor)
    async with admitted(platform, access), deadline.enforced():
        scope = await platform.catalogue.pinned(access.scope)
        found = await platform.catalogue.documents(scope, after, limit + 1)
    more = encode(found[limit - 1]["id"]) if len(found) > limit else None
    return reply({"documents": list(found[:limit]), "next_cursor": more})


@router.post(
    "/documents",
    responses=answers(replies.Indexed, errors=_WRITE_ERRORS),
    openapi_extra=accepts(bodies.DocumentsBody, multipart=True) | repeatable(),
)
async def add_documents(request: Request, access: Writer) -> Response:
    """Index a small batch; it is visible to search when this returns."""
    platform = _writing(request, access)
    batch = await _batch(request, platform)

    async def index() -> Response:
        return reply(await platform.indexer.index(access.scope, batch.rows, batch.uploads, batch.collection))

    async with admitted(platform, access, gate=platform.writes):
        return await once(request, access.scope.uid, index, body=batch.written)


@router.get("/documents/{document_id:path}", responses=answers(replies.DocumentReply))
async def read_document(request: Request, access: Reader, document_id: str) -> Response:
    """One published document; its id is percent-encoded and may hold `/`."""
    platform = platform_of(request)
    counted(platform, access, request)
    wanted = bodies.checked_id(document_id, "/document_id")
    async with admitted(platform, access), deadline.enforced():
        scope = await platform.catalogue.pinned(access.scope)
        return reply(await platform.catalogue.document(scope, wanted))


@router.delete("/documents/{document_id:path}", responses=answers(replies.IndexVersion, errors=_WRITE_ERRORS))
async def delete_document(request: Request, access: Writer, document_id: str) -> Response:
    """Take a document out of the next version; older versions keep it until `erase`."""
    platform = _writing(request, access)
    wanted = bodies.checked_id(document_id, "/document_id")
    async with admitted(platform, access, gate=platform.writes):
        return reply(await platform.indexer.delete(access.scope, wanted))


@router.get("/versions", responses=answers(replies.Versions))
async def list_versions(request: Request, access: Reader) -> Response:
    """The index versions that can be read or rolled back to, newest first."""
    platform = platform_of(request)
    counted(platform, access, request)
    async with admitted(platform, access), deadline.enforced():
        return reply({"versions": list(await platform.catalogue.versions(access.scope))})


@router.post(
    "/rollback",
    responses=answers(replies.IndexVersion, errors=_WRITE_ERRORS),
    openapi_extra=accepts(bodies.RollbackBody) | repeatable(),
)
async def roll_back(request: Request, access: Owner) -> Response:
    """Publish an earlier version again; erased documents do not come back."""
    platform = _writing(request, access)
    body = await bodies.read_body(request, bodies.RollbackBody)
    # Said now, not when the writer is free: two that mean the same version must not go back twice.
    to = body.to or await _earlier(platform, access)

    async def flip() -> Response:
        return reply(await platform.indexer.rollback(access.scope, to))

    async with admitted(platform, access, gate=platform.writes):
        return await once(request, access.scope.uid, flip, body=body.model_dump_json)


@router.post(
    "/erase",
    responses=answers(replies.Erased, errors=_WRITE_ERRORS),
    openapi_extra=accepts(bodies.EraseBody) | repeatable(),
)
async def erase(request: Request, access: Owner) -> Response:
    """Remove documents from every version and from the audit's text, for good."""
    platform = _writing(request, access)
    body = await bodies.read_body(request, bodies.EraseBody)
    wanted = [bodies.checked_id(raw, f"/documents/{number}") for number, raw in enumerate(body.documents)]

    async def remove() -> Response:
        outcome = await platform.indexer.erase(access.scope, wanted)
        await asyncio.to_thread(platform.audit.erase_documents, access.scope.uid, wanted)
        return reply(outcome)

    async with admitted(platform, access, gate=platform.writes):
        return await once(request, access.scope.uid, remove, body=body.model_dump_json)


def _writing(request: Request, access: Access) -> Platform:
    """Count the request, and give it the time that writing an index takes."""
    platform = platform_of(request)
    counted(platform, access, request)
    deadline.start(platform.settings.write_timeout_s)
    return platform


async def _earlier(platform: Platform, access: Access) -> int | None:
    versions = await platform.catalogue.versions(access.scope)  # newest first
    serving = next((each["index_version"] for each in versions if each["current"]), 0)
    return next((each["index_version"] for each in versions if each["index_version"] < serving), None)


@dataclass(frozen=True, slots=True)
class _Batch:
    """A small batch as it was sent; `written` says what it holds."""

    rows: list[dict[str, Any]]
    uploads: list[Upload]
    collection: str
    written: Material


async def _batch(request: Request, platform: Platform) -> _Batch:
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        uploads, collection = await read_uploads(request, platform.settings.limits)
        return _Batch([], uploads, collection, partial(written, uploads, collection))
    body = await bodies.read_body(request, bodies.DocumentsBody)
    rows = bodies.to_rows(body, platform.settings.limits)
    return _Batch(rows, [], body.collection, body.model_dump_json)
