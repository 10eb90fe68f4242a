"""Who is asking: a bearer key becomes an `Access`, and nothing else does.

The tenant comes from the credential. A path that names another tenant answers exactly as one that names no
tenant. The platform's admin key opens /admin/v1, and every tenant as its operator.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import Request

from services.contracts import Caller
from services.gateway.context import RequestContext
from services.gateway.ports import Platform
from tenants.errors import Forbidden, NotFound, Unauthenticated
from tenants.keys import Scope, allows
from tenants.records import Credential, Tenant
from tenants.scope import TenantScope

OPERATOR: Literal["operator"] = "operator"


@dataclass(frozen=True, slots=True)
class Access:
    """A verified caller inside one tenant. `scope` has no release yet: reading routes pin it."""

    tenant: Tenant
    scope: TenantScope
    key_id: str
    request_id: str

    @property
    def caller(self) -> Caller:
        """For the audit."""
        return Caller(request_id=self.request_id, key_id=self.key_id)


def platform_of(request: Request) -> Platform:
    """What the application was assembled with."""
    platform: Platform = request.app.state.platform
    return platform


def may(needed: Scope) -> Callable[[Request, str], Awaitable[Access]]:
    """A dependency for tenant routes: a genuine key of this tenant, active, with at least `needed`."""

    async def authorise(request: Request, tenant: str) -> Access:
        platform, context = platform_of(request), RequestContext.of(request.scope)
        found, key_id, held = await _identify(platform, bearer(request), tenant)
        context.tenant, context.key_id = found.name, key_id
        _check_state(found, held)
        if held != OPERATOR and not allows(held, needed):
            raise Forbidden(f"this key's scope is {held}; this needs {needed}: use such a key")
        return Access(found, await _scope(platform, found), key_id, context.request_id)

    return authorise


async def admin(request: Request) -> Platform:
    """A dependency for /admin/v1: the platform's admin key. A tenant's genuine key is 403, anything else 401."""
    platform, key = platform_of(request), bearer(request)
    if not is_admin(platform, key):
        await _authenticate(platform, key)
        raise Forbidden("this key belongs to a tenant; /admin/v1 needs the platform's admin key")
    RequestContext.of(request.scope).key_id = OPERATOR
    return platform


def bearer(request: Request) -> str:
    """The key of `Authorization: Bearer KEY`; raises `Unauthenticated`."""
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not key.strip():
        raise Unauthenticated("no key; send `Authorization: Bearer KEY`")
    return key.strip()


def is_admin(platform: Platform, key: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(key.encode("utf-8", "replace"), platform.admin_key.encode())


async def _identify(platform: Platform, key: str, tenant: str) -> tuple[Tenant, str, Scope | Literal["operator"]]:
    if is_admin(platform, key):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(platform.doors, platform.store.get_tenant, tenant), OPERATOR, OPERATOR
    credential = await _authenticate(platform, key)
    if credential.tenant.name != tenant:
        raise NotFound("there is no such tenant")
    return credential.tenant, credential.key_id, credential.scope


async def _scope(platform: Platform, tenant: Tenant) -> TenantScope:
    """From memory; every few seconds the database is asked whether there is a newer calibration."""
    root = platform.settings.root
    known = platform.calibrations.cached(tenant, root)
    if known is not None:
        return known
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(platform.doors, platform.calibrations.scope_of, tenant, root)


async def _authenticate(platform: Platform, key: str) -> Credential:
    known = platform.keys.cached(key)
    if known is not None:
        return known
    return await asyncio.get_running_loop().run_in_executor(platform.doors, platform.keys.authenticate, key)


def _check_state(tenant: Tenant, held: str) -> None:
    if tenant.state == "deleting":
        raise NotFound("there is no such tenant")
    if tenant.state == "suspended" and held != OPERATOR:
        raise Forbidden("this tenant is suspended; ask the operator")
