"""A tenant in a temporary folder, and releases to publish there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tenants.config import TenantConfig
from tenants.ids import new_tenant_uid, tenant_name
from tenants.scope import Release, TenantScope


@pytest.fixture
def scope(tmp_path: Path) -> TenantScope:
    return TenantScope(tenant_name("acme"), new_tenant_uid(), TenantConfig(), str(tmp_path))


@pytest.fixture
def make_release() -> Callable[..., Release]:
    def make(lance_version: int = 1, **changes: object) -> Release:
        values: dict[str, object] = {
            "version": 0,
            "table": "chunks_0123456789ab",
            "lance_version": lance_version,
            "fingerprint": "f",
            "embedder": "builtin",
            "dimension": 4,
            "published_at": "",
            "documents": 1,
            "chunks": 1,
            "tokens": 1,
            "manifest": "manifests/m.parquet",
            "manifest_digest": "m",
            "job_id": "job_1",
        }
        return Release(**{**values, **changes})  # type: ignore[arg-type]

    return make
