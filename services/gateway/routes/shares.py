"""The operator's grants: a tenant's collection becomes searchable for another one, and stops being so."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from services.gateway import bodies
from services.gateway.auth import admin
from services.gateway.http import ADMIN_ERRORS, accepts, answers, reply
from services.gateway.ports import Platform
from services.gateway.sharing import ShareBody, ShareReply, ShareRevoked, Shares, shares_json
from tenants.errors import InvalidInput, NotFound
from tenants.records import Tenant
from tenants.store import Store

router = APIRouter(prefix="/admin/v1/tenants/{tenant}/shares", tags=["admin"])

Operator = Annotated[Platform, Depends(admin)]


@router.get("", responses=answers(Shares, errors=ADMIN_ERRORS))
async def list_shares(platform: Operator, tenant: str) -> Response:
    """What the tenant shares with others, and what others share with it."""
    found = await asyncio.to_thread(platform.store.get_tenant, tenant)
    return reply(shares_json(found.name, await asyncio.to_thread(platform.store.list_grants, found)))


@router.post(
    "", status_code=201, responses=answers(ShareReply, 201, errors=ADMIN_ERRORS), openapi_extra=accepts(ShareBody)
)
async def grant_share(request: Request, platform: Operator, tenant: str) -> Response:
    """Let another tenant search a collection of this one; granting again changes nothing."""
    body = await bodies.read_body(request, ShareBody)
    owner, subscriber = await asyncio.to_thread(_both, platform.store, tenant, body.subscriber)
    return reply((await asyncio.to_thread(platform.store.grant, owner, body.collection, subscriber)).to_json(), 201)


@router.delete("/{collection}/{subscriber}", responses=answers(ShareRevoked, errors=ADMIN_ERRORS))
async def revoke_share(platform: Operator, tenant: str, collection: str, subscriber: str) -> Response:
    """End a grant; the subscriber's next question no longer reads the collection."""
    owner = await asyncio.to_thread(platform.store.get_tenant, tenant)
    other = await asyncio.to_thread(platform.store.get_tenant, subscriber)
    await asyncio.to_thread(platform.store.revoke_grant, owner, collection, other)
    return reply({"name": f"{owner.name}/{collection}", "subscriber": other.name, "revoked": True})


def _both(store: Store, tenant: str, subscriber: str) -> tuple[Tenant, Tenant]:
    owner = store.get_tenant(tenant)
    try:
        return owner, store.get_tenant(subscriber)
    except NotFound:
        raise InvalidInput.field("/subscriber", "there is no such tenant") from None
