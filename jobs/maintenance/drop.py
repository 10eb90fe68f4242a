"""The end of a tenant: its jobs end, then everything that it stored goes; what a straggler writes later is swept."""

from __future__ import annotations

import time
from contextlib import suppress

from jobs.maintenance.clearing import is_driven, job_folders
from jobs.maintenance.sweep import mark, sweep
from tenants.corpus.lease import acquire
from tenants.corpus.objects import open_objects
from tenants.errors import InFlight
from tenants.scope import TenantScope

DRAIN_S = 30.0
_POLL_S = 0.2


def drop(scope: TenantScope, *, wait_s: float = DRAIN_S) -> None:
    """Delete everything the tenant stored. Its state is `deleting` and its jobs are asked to stop by now.

    Drivers and small writes get `wait_s` to end; what goes on after that fails, and what it leaves is swept.
    """
    ends = time.monotonic() + wait_s
    mark(scope.root, scope.uid)
    objects = open_objects(scope.base)
    while any(is_driven(objects, job) for job in job_folders(objects)) and time.monotonic() < ends:
        time.sleep(_POLL_S)
    with suppress(InFlight), acquire(scope, "deletion", wait_s=max(0.0, ends - time.monotonic())):
        objects.delete("")
    objects.delete("")
    sweep(scope.root)
