"""The operator's two hands on tenants and keys: over HTTP when a platform answers, else on the local store.

Both return the same documents, so a verb does not know which hand it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote

from cluster.cli.client import Client, try_connect
from services.control_plane import open_control_plane
from services.settings import Settings
from tenants import keys
from tenants.config import merged, validate_config
from tenants.database import Database
from tenants.records import KeyInfo, Tenant
from tenants.scope import TenantScope
from tenants.store import Store


class Operator(Protocol):
    """What an operator may do to tenants and keys; every method returns plain JSON values."""

    def create_tenant(self, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """`{tenant, api_key, …}`: the key is an admin key of that tenant, shown once."""
        ...

    def tenants(self) -> list[dict[str, Any]]:
        """Every tenant."""
        ...

    def tenant(self, name: str) -> dict[str, Any]:
        """One tenant with its configuration."""
        ...

    def update_tenant(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """`changes` is `{"config": …}` or `{"state": …}`."""
        ...

    def delete_tenant(self, name: str) -> None:
        """Close the tenant, then remove its data, its records, last its row: safe to repeat."""
        ...

    def create_key(self, tenant: str, scope: str, expires: str | None) -> dict[str, Any]:
        """`{api_key, key_id, scope, …}`: shown once."""
        ...

    def keys(self, tenant: str) -> list[dict[str, Any]]:
        """Every key of the tenant without its secret."""
        ...

    def revoke_key(self, tenant: str, key_id: str) -> None:
        """The key stops working within a second."""
        ...

    def grant(self, owner: str, collection: str, subscriber: str) -> dict[str, Any]:
        """Let `subscriber` search the owner's collection: `{name, owner, collection, subscriber, created_at}`."""
        ...

    def shares(self, tenant: str) -> dict[str, Any]:
        """`{given, received}`: grants in both directions."""
        ...

    def revoke_grant(self, owner: str, collection: str, subscriber: str) -> None:
        """The subscriber's next question no longer reads the collection."""
        ...


def operator(settings: Settings) -> Operator:
    """HTTP when FATHOM_URL is set or a platform runs on the data dir, else the local store."""
    client = try_connect(settings)
    return HttpOperator(client) if client else LocalOperator(settings)


class HttpOperator:
    """Through `/admin/v1`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create_tenant(self, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `Operator`."""
        return dict(self._client.call("POST", "/admin/v1/tenants", {"name": name, "config": config}))

    def tenants(self) -> list[dict[str, Any]]:
        """See `Operator`."""
        return list(self._client.call("GET", "/admin/v1/tenants")["tenants"])

    def tenant(self, name: str) -> dict[str, Any]:
        """See `Operator`."""
        return dict(self._client.call("GET", _path(name)))

    def update_tenant(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """See `Operator`."""
        return dict(self._client.call("PATCH", _path(name), changes))

    def delete_tenant(self, name: str) -> None:
        """See `Operator`."""
        self._client.call("DELETE", _path(name))

    def create_key(self, tenant: str, scope: str, expires: str | None) -> dict[str, Any]:
        """See `Operator`."""
        return dict(self._client.call("POST", _path(tenant, "keys"), {"scope": scope, "expires": expires}))

    def keys(self, tenant: str) -> list[dict[str, Any]]:
        """See `Operator`."""
        return list(self._client.call("GET", _path(tenant, "keys"))["keys"])

    def revoke_key(self, tenant: str, key_id: str) -> None:
        """See `Operator`."""
        self._client.call("DELETE", _path(tenant, "keys", key_id))

    def grant(self, owner: str, collection: str, subscriber: str) -> dict[str, Any]:
        """See `Operator`."""
        body = {"collection": collection, "subscriber": subscriber}
        return dict(self._client.call("POST", _path(owner, "shares"), body))

    def shares(self, tenant: str) -> dict[str, Any]:
        """See `Operator`."""
        return dict(self._client.call("GET", _path(tenant, "shares")))

    def revoke_grant(self, owner: str, collection: str, subscriber: str) -> None:
        """See `Operator`."""
        self._client.call("DELETE", _path(owner, "shares", collection, subscriber))


class LocalOperator:
    """On the control plane of the data dir, without a running platform."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Store = open_control_plane(settings)

    def create_tenant(self, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `Operator`."""
        tenant = self._store.create_tenant(name, validate_config(dict(config)))
        key, info = self._store.add_key(tenant, "admin", None)
        return {**tenant_document(tenant), "api_key": key, "key_id": info.key_id}

    def tenants(self) -> list[dict[str, Any]]:
        """See `Operator`."""
        return [tenant_document(tenant) for tenant in self._store.list_tenants()]

    def tenant(self, name: str) -> dict[str, Any]:
        """See `Operator`."""
        tenant = self._store.get_tenant(name)
        return tenant_document(tenant) | {"calibration": self._store.calibration_summary(tenant)}

    def update_tenant(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """See `Operator`."""
        if "config" in changes:
            current = self._store.get_tenant(name)
            self._store.update_config(name, merged(current.config, changes["config"]))
        if "state" in changes:
            self._store.set_state(name, changes["state"])
        return self.tenant(name)

    def delete_tenant(self, name: str) -> None:
        """See `Operator`."""
        from jobs.maintenance.drop import drop
        from services.audit.log import open_audit_log
        from services.audit.reading import AuditReader

        tenant = self._store.set_state(name, "deleting")
        self._store.cancel_jobs(tenant)
        drop(TenantScope(tenant.name, tenant.uid, tenant.config, self._settings.root))
        open_audit_log(self._settings.audit_url)  # makes its tables where nothing was ever asked
        AuditReader(Database(self._settings.audit_url)).delete_tenant(tenant.uid)
        self._store.delete_tenant(tenant.name)

    def create_key(self, tenant: str, scope: str, expires: str | None) -> dict[str, Any]:
        """See `Operator`."""
        until = keys.expiry(expires, datetime.now(UTC))
        key, info = self._store.add_key(self._store.get_tenant(tenant), scope, until)
        return {"tenant": tenant, "api_key": key, **key_document(info)}

    def keys(self, tenant: str) -> list[dict[str, Any]]:
        """See `Operator`."""
        return [key_document(info) for info in self._store.list_keys(self._store.get_tenant(tenant))]

    def revoke_key(self, tenant: str, key_id: str) -> None:
        """See `Operator`."""
        self._store.revoke_key(self._store.get_tenant(tenant), key_id)

    def grant(self, owner: str, collection: str, subscriber: str) -> dict[str, Any]:
        """See `Operator`."""
        tenants = self._store.get_tenant(owner), self._store.get_tenant(subscriber)
        return self._store.grant(tenants[0], collection, tenants[1]).to_json()

    def shares(self, tenant: str) -> dict[str, Any]:
        """See `Operator`."""
        grants = self._store.list_grants(self._store.get_tenant(tenant))
        return {
            "given": [grant.to_json() for grant in grants if grant.owner == tenant],
            "received": [grant.to_json() for grant in grants if grant.subscriber == tenant],
        }

    def revoke_grant(self, owner: str, collection: str, subscriber: str) -> None:
        """See `Operator`."""
        tenants = self._store.get_tenant(owner), self._store.get_tenant(subscriber)
        self._store.revoke_grant(tenants[0], collection, tenants[1])


def tenant_document(tenant: Tenant) -> dict[str, Any]:
    """A tenant as JSON, in the names of `/admin/v1`."""
    return {
        "tenant": tenant.name,
        "uid": tenant.uid,
        "state": tenant.state,
        "created_at": tenant.created_at.isoformat(),
        "config": tenant.config.model_dump(mode="json"),
    }


def key_document(info: KeyInfo) -> dict[str, Any]:
    """A key as JSON, in the names of `/admin/v1`."""
    moments = {name: getattr(info, name) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return {
        "key_id": info.key_id,
        "scope": info.scope,
        **{name: moment.isoformat() if moment else None for name, moment in moments.items()},
    }


def _path(name: str, *rest: str) -> str:
    return "/admin/v1/tenants/" + "/".join(quote(part, safe="") for part in (name, *rest))
