"""The Indexer: small online writes and the corpus' administration as a Serve deployment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ray import serve

from jobs.indexing.batches import BatchWriter
from jobs.indexing.turns import Turns
from jobs.maintenance.drop import drop
from jobs.maintenance.erase import erase
from services.control_plane import open_control_plane
from services.handles import hold_to_loopback
from services.settings import Settings
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.scope import TenantScope

T = TypeVar("T")
_LEAST_S = 0.001  # no time left is not the same as no limit


@serve.deployment
class Indexer:
    """`services.gateway.ports.Indexer` behind a handle; every method's last argument is the time left in seconds."""

    def __init__(self, settings: Settings) -> None:
        hold_to_loopback(settings.host)
        self._settings = settings
        self._writer = BatchWriter(settings, open_control_plane(settings))
        self._turns = Turns()

    async def index(
        self,
        scope: TenantScope,
        documents: Sequence[dict[str, Any]],
        uploads: Sequence[tuple[str, bytes]],
        collection: str,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """See `BatchWriter.index_documents`."""
        write = self._writer.index_documents
        return await self._turn(scope, timeout_s, lambda left: write(scope, documents, uploads, collection, left))

    async def delete(self, scope: TenantScope, document_id: str, timeout_s: float | None = None) -> dict[str, Any]:
        """See `BatchWriter.delete_documents`."""
        delete = self._writer.delete_documents
        return await self._turn(scope, timeout_s, lambda left: delete(scope, [document_id], left))

    async def erase(
        self, scope: TenantScope, document_ids: Sequence[str], timeout_s: float | None = None
    ) -> dict[str, Any]:
        """See `jobs.maintenance.erase`."""
        return await self._turn(scope, timeout_s, lambda left: erase(scope, document_ids, wait_s=left))

    async def rollback(self, scope: TenantScope, to: int | None, timeout_s: float | None = None) -> dict[str, Any]:
        """`{index_version}` of the release that serves now."""
        return await self._turn(scope, timeout_s, lambda left: _rollback(scope, to, left))

    async def drop(self, scope: TenantScope, timeout_s: float | None = None) -> None:
        """Remove everything that the tenant stored."""
        await self._turn(scope, timeout_s, lambda _: drop(scope))

    async def _turn(self, scope: TenantScope, timeout_s: float | None, write: Callable[[float], T]) -> T:
        """`write` with the seconds that are left once it is its turn."""
        ends = time.monotonic() + (self._settings.request_timeout_s if timeout_s is None else timeout_s)
        return await self._turns.run(scope.uid, lambda: write(max(_LEAST_S, ends - time.monotonic())))


def _rollback(scope: TenantScope, to: int | None, wait_s: float) -> dict[str, Any]:
    with acquire(scope, "rollback", wait_s=wait_s) as lease:
        return {"index_version": releases.rollback(scope, to, lease).version}
