"""Rewrite small and holey files into large ones and merge the indices' deltas: searches read less."""

from __future__ import annotations

from typing import Any

import lance
import pyarrow as pa

from jobs.maintenance.republish import republish
from tenants.corpus.indices import build_vectors, rewrite
from tenants.corpus.lease import acquire
from tenants.ids import new_job_id
from tenants.scope import Release, TenantScope

LEASE_WAIT_S = 60.0


def compact(scope: TenantScope, *, wait_s: float = LEASE_WAIT_S) -> Release | None:
    """Publish the same rows in as few files as they need, with indices trained on all of them.

    None when nothing is published. Raises `InFlight` when a writer keeps the lease for longer than `wait_s`.
    """
    with acquire(scope, "compaction", wait_s=wait_s) as lease:
        return republish(scope, lease, new_job_id(), _compacted)


def _compacted(dataset: lance.LanceDataset, manifest: pa.Table) -> tuple[lance.LanceDataset, pa.Table, dict[str, Any]]:
    rewrite(dataset, threshold=0.0)
    if dataset.describe_indices():
        dataset.optimize.optimize_indices(retrain=True)
    entries = {"vector_index": build_vectors(dataset).to_json()} if dataset.count_rows() else {}
    return dataset, manifest, entries
