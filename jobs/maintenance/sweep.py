"""What a straggler writes for a tenant after it was dropped: marked, found and deleted. Lance-free.

A dropped tenant leaves one object outside its folder, `deleted/{uid}`, for `KEPT_S`: a worker that was cut off from
the platform may still finish a write. The uid is random and says nothing of who the tenant was. Only marked folders
are ever swept, so that a control plane that was restored from an older copy costs nobody their data.
"""

from __future__ import annotations

import time

from tenants.corpus.objects import open_objects
from tenants.ids import TenantUid

KEPT_S = 7 * 24 * 3_600.0
MARKS = "deleted"


def mark(root: str, uid: TenantUid) -> None:
    """Remember that the tenant was dropped."""
    open_objects(root).put(f"{MARKS}/{uid}", str(time.time()).encode())


def sweep(root: str) -> tuple[str, ...]:
    """Delete what was written for tenants that were dropped before; gives their uids."""
    marks, found = open_objects(root), []
    for key in marks.keys(MARKS):
        uid = key.rpartition("/")[2]
        left = open_objects(f"{root.rstrip('/')}/tenants/{uid}")
        if left.keys(""):
            found.append(uid)
        left.delete("")
        if time.time() - float(marks.get(key) or 0) > KEPT_S:
            marks.delete(key)
    return tuple(found)
