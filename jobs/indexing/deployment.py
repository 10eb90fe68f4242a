"""The Indexer: small online writes and the corpus' administration as a Serve deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray import serve

from jobs.indexing.batches import BatchWriter
from jobs.maintenance.erase import drop, erase
from services.control_plane import open_control_plane
from services.handles import hold_to_loopback
from services.settings import Settings
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.scope import TenantScope


@serve.deployment
class Indexer:
    """`services.gateway.ports.Indexer` behind a handle; every method's last argument is the time left in seconds."""

    def __init__(self, settings: Settings) -> None:
        hold_to_loopback(settings.host)
        self._settings = settings
        self._writer = BatchWriter(settings, open_control_plane(settings))

    async def index(
        self,
        scope: TenantScope,
        documents: Sequence[dict[str, Any]],
        uploads: Sequence[tuple[str, bytes]],
        collection: str,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """See `BatchWriter.index_documents`."""
        writer = self._writer
        return await asyncio.to_thread(writer.index_documents, scope, documents, uploads, collection, timeout_s)

    async def delete(self, scope: TenantScope, document_id: str, timeout_s: float | None = None) -> dict[str, Any]:
        """See `BatchWriter.delete_documents`."""
        return await asyncio.to_thread(self._writer.delete_documents, scope, [document_id], timeout_s)

    async def erase(
        self, scope: TenantScope, document_ids: Sequence[str], timeout_s: float | None = None
    ) -> dict[str, Any]:
        """See `jobs.maintenance.erase`."""
        return await asyncio.to_thread(erase, scope, document_ids, wait_s=self._wait(timeout_s))

    async def rollback(self, scope: TenantScope, to: int | None, timeout_s: float | None = None) -> dict[str, Any]:
        """`{index_version}` of the release that serves now."""
        return await asyncio.to_thread(self._rollback, scope, to, self._wait(timeout_s))

    async def drop(self, scope: TenantScope, timeout_s: float | None = None) -> None:
        """Remove everything that the tenant stored."""
        await asyncio.to_thread(drop, scope)

    def _wait(self, timeout_s: float | None) -> float:
        return self._settings.request_timeout_s if timeout_s is None else timeout_s

    def _rollback(self, scope: TenantScope, to: int | None, wait_s: float) -> dict[str, Any]:
        with acquire(scope, "rollback", wait_s=wait_s) as lease:
            return {"index_version": releases.rollback(scope, to, lease).version}
