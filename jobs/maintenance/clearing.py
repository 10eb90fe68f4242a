"""What erasing and garbage collection share: drop every table version, file, manifest and job that nobody may need.

Lance removes the files of the versions it is told to forget; fragments that were written but never committed have
no version, and go by age. Everything here needs the tenant's lease.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import lance

from jobs.indexing.job import job_folder
from jobs.indexing.manifest import manifest_key
from tenants.corpus import release as releases
from tenants.corpus.lease import is_running
from tenants.corpus.objects import Objects, open_objects
from tenants.corpus.table import open_latest, table_uri
from tenants.scope import TenantScope

TABLE_SUFFIX = ".lance"


def clear_tables(scope: TenantScope, *, uncommitted: bool) -> int:
    """Forget every table version that no usable release names; gives the bytes that were freed.

    `uncommitted` also deletes fragments that no version holds, whoever wrote them (in a table with a version to
    forget); otherwise Lance keeps those of the last seven days, for their job may still run.
    """
    objects = open_objects(scope.base)
    kept = releases.list_releases(scope)
    freed = 0
    for name in tables(objects):
        versions = {release.lance_version for release in kept if release.table == name}
        if versions:
            freed += _clear_table(open_latest(table_uri(scope, name)), versions, uncommitted=uncommitted)
        else:
            objects.delete(f"corpus/{name}{TABLE_SUFFIX}")
    return freed


def tables(objects: Objects) -> list[str]:
    """Names of the tenant's tables, published or not."""
    keys = objects.keys("corpus")
    found = {key.split("/")[1] for key in keys if key.count("/") >= 2}
    return sorted(name.removesuffix(TABLE_SUFFIX) for name in found if name.endswith(TABLE_SUFFIX))


def clear_manifests(scope: TenantScope) -> None:
    """Delete the manifests that no usable release names."""
    objects = open_objects(scope.base)
    kept = {release.manifest for release in releases.list_releases(scope)}
    for key in objects.keys(manifest_key("").rpartition("/")[0]):
        if key not in kept:
            objects.delete(key)


def job_folders(objects: Objects) -> list[str]:
    """Ids of the jobs that left state behind: unfinished ones."""
    return sorted({key.split("/")[1] for key in objects.keys("jobs") if key.count("/") >= 2})


def is_driven(objects: Objects, job_id: str) -> bool:
    """Whether the job's driver may still be alive."""
    keys = objects.keys(f"{job_folder(job_id)}/lease")
    record = objects.get(keys[-1]) if keys else None
    if record is None:
        return False
    value = json.loads(record)
    return not value["released"] and is_running(value["process"]) is not False


def _clear_table(dataset: lance.LanceDataset | None, versions: Collection[int], *, uncommitted: bool) -> int:
    if dataset is None:
        return 0
    old = [entry["version"] for entry in dataset.versions() if entry["version"] not in {*versions, dataset.version}]
    if not old:
        return 0
    return int(dataset.cleanup_old_versions(versions=old, delete_unverified=uncommitted).bytes_removed)
