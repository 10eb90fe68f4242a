"""What is published, for readers beside the search: current version, versions, documents. Async shell, no state.

On a local disk the pointer is one small read, taken in place; everything else, and every object store, is asked
in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tenants.corpus import release
from tenants.corpus.documents import get_document, list_documents
from tenants.scope import Release, TenantScope


class CorpusCatalogue:
    """ports.Catalogue over the tenant's corpus."""

    async def pinned(self, scope: TenantScope) -> TenantScope:
        """The scope with its current release."""
        if "://" in scope.root:
            return await asyncio.to_thread(release.pinned, scope)
        return release.pinned(scope)

    async def documents(self, scope: TenantScope, after: str | None, limit: int) -> Sequence[dict[str, Any]]:
        """See `tenants.corpus.documents.list_documents`."""
        return await asyncio.to_thread(list_documents, scope, after, limit)

    async def document(self, scope: TenantScope, document_id: str) -> dict[str, Any]:
        """See `tenants.corpus.documents.get_document`."""
        return await asyncio.to_thread(get_document, scope, document_id)

    async def versions(self, scope: TenantScope) -> Sequence[dict[str, Any]]:
        """Newest first; `current` marks the one that serves."""
        serving, found = await asyncio.gather(self.pinned(scope), asyncio.to_thread(release.list_releases, scope))
        return [version_json(each, serving.index_version) for each in reversed(found)]


def version_json(each: Release, serving: int) -> dict[str, Any]:
    """One published version."""
    return {
        "index_version": each.version,
        "published_at": each.published_at,
        "documents": each.documents,
        "chunks": each.chunks,
        "tokens": each.tokens,
        "fingerprint": each.fingerprint,
        "embedder": each.embedder,
        "current": each.version == serving,
    }
