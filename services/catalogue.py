"""What is published, for readers beside the search: current version, versions, documents, shared collections.

Async shell, no state. On a local disk the pointer is one small read, taken in place; everything else, and every
object store, is asked in a thread. Grants are read anew for every question of a tenant that names shared collections,
so that what is revoked is gone with the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tenants.corpus import release
from tenants.corpus.documents import get_document, list_documents
from tenants.grant_rows import GrantRows
from tenants.scope import Release, Shared, TenantScope


class CorpusCatalogue:
    """ports.Catalogue over the tenant's corpus; without a store of grants nothing is shared."""

    def __init__(self, grants: GrantRows | None = None) -> None:
        self._grants = grants

    async def pinned(self, scope: TenantScope) -> TenantScope:
        """The scope with its current release, and those of the collections that it may search beside its own."""
        if self._grants is not None and scope.config.shared_collections:
            return await asyncio.to_thread(with_shared, scope, self._grants)
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


def with_shared(scope: TenantScope, grants: GrantRows) -> TenantScope:
    """The pinned scope with every shared collection that is configured, granted, and published by an active owner."""
    scope = release.pinned(scope)
    found = []
    for owner, collection in grants.granted(scope, scope.config.shared_collections):
        of_owner = TenantScope(owner.name, owner.uid, owner.config, scope.root)
        serving = release.current(of_owner)
        if serving is not None:
            name, languages = f"{owner.name}/{collection}", owner.config.languages
            found.append(Shared(name, owner.uid, collection, of_owner.corpus_uri, languages, serving))
    return replace(scope, shared=tuple(found))


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
