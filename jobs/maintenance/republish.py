"""A new version of the same documents, or fewer: stand on the serving one, change the table, count, publish."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lance
import pyarrow as pa

from jobs.indexing.commit import CLOCK_SLACK_S, turned_over, verify
from jobs.indexing.manifest import load_manifest, manifest_key, save_manifest
from tenants.corpus import release as releases
from tenants.corpus.lease import Lease
from tenants.corpus.objects import open_objects, sync_tree
from tenants.corpus.table import stand_on
from tenants.scope import Release, TenantScope

Change = Callable[[lance.LanceDataset, pa.Table], tuple[lance.LanceDataset, pa.Table, dict[str, Any]]]


def republish(scope: TenantScope, lease: Lease, job_id: str, change: Change) -> Release | None:
    """Publish what `change(dataset, manifest)` makes of the serving version: (dataset, manifest, profile entries).

    None when nothing is published. Raises `LeaseLost`, and `IntegrityError` when table and manifest disagree.
    """
    began = time.time()
    releases.repair(scope, lease)
    base = releases.current(scope)
    if base is None:
        return None
    standing = stand_on(scope, base, base.table, base.dimension)
    dataset, manifest, entries = change(standing, load_manifest(scope, base))
    tokens = verify(dataset, manifest)
    digest = save_manifest(open_objects(scope.base), manifest)
    release = replace(
        base,
        lance_version=dataset.version,
        documents=manifest.num_rows,
        chunks=int(pa.compute.sum(manifest["chunks"]).as_py() or 0),
        tokens=tokens,
        manifest=manifest_key(digest),
        manifest_digest=digest,
        job_id=job_id,
        profile={**base.profile, **entries},
    )
    sync_tree(dataset.uri, began - CLOCK_SLACK_S)
    return releases.publish(scope, turned_over(release, base, 0), lease)
