"""The operator's family: tenants and their keys. Opened by the platform's admin key only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from services import deadline
from services.gateway import bodies, replies
from services.gateway.auth import admin
from services.gateway.http import ADMIN_ERRORS, accepts, answers, iso, repeatable, reply
from services.gateway.idempotency import once
from services.gateway.ports import Platform
from tenants.config import TenantConfig, merged, validate_config
from tenants.errors import FathomError, FieldError, InvalidInput, Unavailable
from tenants.keys import expiry
from tenants.records import KeyInfo, Tenant
from tenants.scope import TenantScope
from tenants.store import Store

router = APIRouter(prefix="/admin/v1/tenants", tags=["admin"])

Operator = Annotated[Platform, Depends(admin)]
OWNER = "admin"


@router.get("", responses=answers(replies.Tenants, errors=ADMIN_ERRORS))
async def list_tenants(platform: Operator) -> Response:
    """Every tenant, by name."""
    tenants = await asyncio.to_thread(platform.store.list_tenants)
    return reply({"tenants": [tenant_json(tenant) for tenant in tenants]})


@router.post(
    "",
    status_code=201,
    responses=answers(replies.TenantCreated, 201, errors=ADMIN_ERRORS),
    openapi_extra=accepts(bodies.TenantBody) | repeatable(),
)
async def create_tenant(request: Request, platform: Operator) -> Response:
    """A new tenant and its first key, of scope admin; the key is shown once."""
    body = await bodies.read_body(request, bodies.TenantBody)
    config = _configured(partial(validate_config, body.config))

    async def create() -> Response:
        tenant, key = await asyncio.to_thread(_founded, platform.store, body.name, config)
        return reply(tenant_json(tenant) | {"api_key": key}, 201)

    return await once(request, OWNER, create, body=body.model_dump_json, tenant=body.name)


@router.get("/{tenant}", responses=answers(replies.TenantDetail, errors=ADMIN_ERRORS))
async def read_tenant(platform: Operator, tenant: str) -> Response:
    """One tenant, its whole configuration, and what its reranking is certified for."""
    found = await asyncio.to_thread(platform.store.get_tenant, tenant)
    return reply(
        tenant_json(found) | {"calibration": await asyncio.to_thread(platform.store.calibration_summary, found)}
    )


@router.patch(
    "/{tenant}",
    responses=answers(replies.TenantReply, errors=ADMIN_ERRORS),
    openapi_extra=accepts(bodies.TenantPatch),
)
async def update_tenant(request: Request, platform: Operator, tenant: str) -> Response:
    """Merge into the configuration (RFC 7396), suspend, or wake."""
    body = await bodies.read_body(request, bodies.TenantPatch)
    found = await asyncio.to_thread(platform.store.get_tenant, tenant)
    if body.config is not None:
        config = _configured(partial(merged, found.config, body.config))
        found = await asyncio.to_thread(platform.store.update_config, found.name, config)
    if body.state is not None:
        found = await asyncio.to_thread(platform.store.set_state, found.name, body.state)
    return reply(tenant_json(found))


@router.delete("/{tenant}", responses=answers(replies.TenantDeleted, errors=ADMIN_ERRORS))
async def delete_tenant(platform: Operator, tenant: str) -> Response:
    """Remove the tenant: first it is closed, then its data and audit go, last its row. Safe to repeat."""
    deadline.start(platform.settings.write_timeout_s)
    found = await asyncio.to_thread(platform.store.get_tenant, tenant)
    await asyncio.to_thread(platform.store.set_state, found.name, "deleting")
    scope = TenantScope(found.name, found.uid, found.config, platform.settings.root)
    await _stop_jobs(platform, found)
    await platform.indexer.drop(scope)
    await asyncio.to_thread(platform.audit.delete_tenant, found.uid)
    await asyncio.to_thread(platform.store.delete_tenant, found.name)
    return reply({"tenant": found.name, "deleted": True})


@router.get("/{tenant}/keys", responses=answers(replies.Keys, errors=ADMIN_ERRORS))
async def list_keys(platform: Operator, tenant: str) -> Response:
    """The tenant's keys without their secrets, oldest first."""
    found = await asyncio.to_thread(platform.store.get_tenant, tenant)
    keys = await asyncio.to_thread(platform.store.list_keys, found)
    return reply({"keys": [key_json(key) for key in keys]})


@router.post(
    "/{tenant}/keys",
    status_code=201,
    responses=answers(replies.KeyCreated, 201, errors=ADMIN_ERRORS),
    openapi_extra=accepts(bodies.KeyBody) | repeatable(),
)
async def create_key(request: Request, platform: Operator, tenant: str) -> Response:
    """A new key; it is shown once."""
    body = await bodies.read_body(request, bodies.KeyBody)
    found = await asyncio.to_thread(platform.store.get_tenant, tenant)
    expires_at = expiry(body.expires, datetime.now(UTC))

    async def create() -> Response:
        key, info = await asyncio.to_thread(platform.store.add_key, found, body.scope, expires_at)
        return reply(key_json(info) | {"api_key": key}, 201)

    return await once(request, OWNER, create, body=body.model_dump_json, tenant=found.name)


@router.delete("/{tenant}/keys/{key_id}", responses=answers(replies.KeyReply, errors=ADMIN_ERRORS))
async def revoke_key(platform: Operator, tenant: str, key_id: str) -> Response:
    """Revoke a key; it is refused everywhere within a second."""
    found = await asyncio.to_thread(platform.store.get_tenant, tenant)
    await asyncio.to_thread(platform.store.revoke_key, found, key_id)
    keys = await asyncio.to_thread(platform.store.list_keys, found)
    return reply(next(key_json(key) for key in keys if key.key_id == key_id))


def _founded(store: Store, name: str, config: TenantConfig) -> tuple[Tenant, str]:
    """A tenant with its first key, or neither: without a key its name would be taken and of no use."""
    tenant = store.create_tenant(name, config)
    try:
        key, _ = store.add_key(tenant, "admin")
    except FathomError:
        store.delete_tenant(tenant.name)
        raise
    return tenant, key


def _configured(make: Callable[[], TenantConfig]) -> TenantConfig:
    """A configuration; its faults point into the body that it came in."""
    try:
        return make()
    except InvalidInput as error:
        errors = tuple(FieldError(f"/config{fault.pointer.rstrip('/')}", fault.detail) for fault in error.errors)
        raise InvalidInput(error.detail, errors=errors) from None


async def _stop_jobs(platform: Platform, tenant: Tenant) -> None:
    """Cancel what the tenant has queued or running; a driver that cannot be reached finds its tenant closed."""
    for job_id in await asyncio.to_thread(platform.store.cancel_jobs, tenant):
        with suppress(Unavailable):
            await platform.jobs.stop(job_id)


def tenant_json(tenant: Tenant) -> dict[str, Any]:
    """A tenant as the operator sees it."""
    return {
        "tenant": tenant.name,
        "uid": tenant.uid,
        "state": tenant.state,
        "created_at": iso(tenant.created_at),
        "config": tenant.config.model_dump(mode="json"),
    }


def key_json(key: KeyInfo) -> dict[str, Any]:
    """A key without its secret."""
    return {
        "key_id": key.key_id,
        "scope": key.scope,
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "revoked_at": iso(key.revoked_at),
        "last_used_at": iso(key.last_used_at),
    }
