"""Free what nobody needs: versions beyond the newest few, their files and manifests, jobs that were given up."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.indexing.job import job_folder
from jobs.maintenance.clearing import clear_manifests, clear_tables, is_driven, job_folders
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.corpus.objects import open_objects
from tenants.scope import TenantScope
from tenants.store import Store

KEEP_RELEASES = 5
LEASE_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Freed:
    """What a collection removed."""

    versions: tuple[int, ...]
    jobs: tuple[str, ...]
    bytes: int


def collect(scope: TenantScope, store: Store, *, keep: int = KEEP_RELEASES, wait_s: float = LEASE_WAIT_S) -> Freed:
    """Keep the serving and the newest `keep` versions; forget finished jobs' leftovers and clear the files.

    A job that failed or was cancelled keeps its work, for it can be resumed; its fragments go after the seven days
    in which it may be. Raises `InFlight` when a writer keeps the lease for longer than `wait_s`.
    """
    with acquire(scope, "garbage collection", wait_s=wait_s) as lease:
        serving = releases.repair(scope, lease).serving
        usable = [release.version for release in releases.list_releases(scope)]
        old = tuple(version for version in usable[:-keep] if version != serving)
        releases.withdraw(scope, old, f"only the newest {keep} versions are kept", lease)
        jobs = _finished_jobs(scope, store)
        for job in jobs:
            open_objects(scope.base).delete(job_folder(job))
        freed = clear_tables(scope, uncommitted=False)
        clear_manifests(scope)
        return Freed(old, jobs, freed)


def _finished_jobs(scope: TenantScope, store: Store) -> tuple[str, ...]:
    """Jobs whose folder outlived their success: the driver died between publishing and clearing."""
    objects = open_objects(scope.base)
    done: set[str] = set()
    cursor: str | None = None
    while True:
        rows, cursor = store.list_jobs(scope, cursor)
        done |= {row.job_id for row in rows if row.state == "succeeded"}
        if cursor is None:
            break
    return tuple(job for job in job_folders(objects) if job in done and not is_driven(objects, job))
