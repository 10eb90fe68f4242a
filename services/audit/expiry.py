"""The audit's chore: texts go when their tenant no longer keeps them."""

from __future__ import annotations

from services.audit.reading import AuditReader
from tenants.config import TenantConfig
from tenants.store import Store


def expire_texts(store: Store, audit: AuditReader, now_ms: int) -> int:
    """Drop texts older than their tenant keeps them, those of no tenant after the default; returns how many."""
    recorded = audit.uids()  # before the tenants: whoever is created in between is not taken for unknown
    days: dict[str, int] = {tenant.uid: tenant.config.audit.retention_days for tenant in store.list_tenants()}
    default = TenantConfig().audit.retention_days
    return sum(audit.expire(uid, days.get(uid, default), now_ms) for uid in recorded)
