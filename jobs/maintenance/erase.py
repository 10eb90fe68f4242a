"""Remove documents for good: from the table's files, its indices, every older version, the manifests and all jobs.

What remains is one version without them. Older versions are withdrawn with the reason, so that no rollback brings
the documents back; unfinished jobs lose their work, because it may hold the documents' text, and say so when they
go on. A source that still lists the documents brings them back at its next run: take them out there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lance
import pyarrow as pa

from jobs.indexing.manifest import replaced
from jobs.maintenance.clearing import clear_manifests, clear_tables
from jobs.maintenance.republish import republish
from tenants.corpus import release as releases
from tenants.corpus.indices import DOCUMENT_INDEX, build_text, build_vectors, rewrite
from tenants.corpus.lease import acquire
from tenants.corpus.objects import open_objects
from tenants.corpus.table import replace_documents
from tenants.errors import NotFound
from tenants.ids import new_job_id
from tenants.scope import TenantScope

LEASE_WAIT_S = 60.0
REASON = "documents that it holds were erased"


def erase(scope: TenantScope, document_ids: Sequence[str], *, wait_s: float = LEASE_WAIT_S) -> dict[str, Any]:
    """`{erased, index_version}`: `erased` documents were in the serving version; their bytes are gone everywhere.

    Ids that only older versions hold are erased as well. Raises `NotFound` while nothing is published, `InFlight`
    when a writer keeps the lease for longer than `wait_s`.
    """
    with acquire(scope, "erasure", wait_s=wait_s) as lease:
        objects = open_objects(scope.base)
        objects.delete("jobs")
        erased = 0

        def without(
            dataset: lance.LanceDataset, manifest: pa.Table
        ) -> tuple[lance.LanceDataset, pa.Table, dict[str, Any]]:
            nonlocal erased
            rest = replaced(manifest, document_ids, manifest.schema.empty_table())
            erased = manifest.num_rows - rest.num_rows
            return _rewritten(replace_documents(dataset, document_ids, ()), scope, rest)

        release = republish(scope, lease, new_job_id(), without)
        if release is None:
            raise NotFound("nothing is indexed, so there is nothing to erase")
        older = [found.version for found in releases.list_releases(scope) if found.version != release.version]
        releases.withdraw(scope, older, REASON, lease)
        clear_tables(scope, uncommitted=True)
        clear_manifests(scope)
        return {"erased": erased, "index_version": release.version}


def _rewritten(
    dataset: lance.LanceDataset, scope: TenantScope, manifest: pa.Table
) -> tuple[lance.LanceDataset, pa.Table, dict[str, Any]]:
    """Files without the deleted rows, and indices that never saw them."""
    rewrite(dataset, threshold=0.0)
    if not dataset.count_rows():
        return dataset, manifest, {}
    build_text(dataset, scope.config.languages)
    dataset.create_scalar_index("document_id", "BTREE", name=DOCUMENT_INDEX, replace=True)
    return dataset, manifest, {"vector_index": build_vectors(dataset).to_json()}
