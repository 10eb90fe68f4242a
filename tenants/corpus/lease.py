"""One writer per tenant, with a fencing token: `acquire` is the only way to publish or maintain a corpus.

A lease is the newest of numbered objects `lease/{token}.json`; taking it is a put-if-absent of the next number, so
exactly one of many takers wins. The holder rewrites its own object every quarter of `ttl_s` (the beat). A taker
may pass a holder that is provably dead (same machine, process gone) at once, and any other whose beat it saw stand
still for `ttl_s` on its own clock: no two clocks are ever compared. A holder that was passed learns it from
`Lease.check`, and its publication fails in any case, for `release` writes numbered objects the same way.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tenants.corpus.objects import Objects, open_objects
from tenants.errors import InFlight, LeaseLost, Unavailable
from tenants.scope import TenantScope

TTL_S = 10.0
_POLL_S = 0.05
TENANT_FOLDER = "lease"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write; higher tokens are newer. `check` before every step that others will see."""

    token: int
    owner: str
    objects: Objects
    folder: str = TENANT_FOLDER
    lost: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises `LeaseLost` when another writer took over."""
        if self.lost.is_set() or _newest(self.objects, self.folder) != self.token:
            self.lost.set()
            raise LeaseLost("another writer took over; run the job again to go on from here")


@contextmanager
def acquire(
    scope: TenantScope, owner: str, *, ttl_s: float = TTL_S, wait_s: float = 0, folder: str = TENANT_FOLDER
) -> Iterator[Lease]:
    """Hold the tenant's lease, or that of one of its jobs (`folder`), inside the `with` block.

    `owner` is shown to whoever is refused (a job id). Raises `InFlight` when a living holder keeps it for longer
    than `wait_s`.
    """
    objects = open_objects(scope.base)
    lease = _take(objects, folder, owner, ttl_s, wait_s)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(lease, ttl_s / 4, stop), name=f"lease-{owner}", daemon=True)
    beat.start()
    try:
        yield lease
    finally:
        stop.set()
        beat.join()
        if not lease.lost.is_set() and _newest(objects, folder) == lease.token:  # a dropped tenant stays empty
            objects.put(_key(folder, lease.token), _record(owner, beat=0, released=True), durable=False)


def _take(objects: Objects, folder: str, owner: str, ttl_s: float, wait_s: float) -> Lease:
    started = time.monotonic()
    seen: tuple[int, bytes | None] = (-1, None)
    unchanged_since = started
    while True:
        token = _newest(objects, folder)
        record = objects.get(_key(folder, token)) if token else None
        moved = (token, record) != seen
        if moved:
            alive = seen[0] == token
            seen, unchanged_since = (token, record), time.monotonic()
        else:
            alive = False
        if _is_free(record) or time.monotonic() - unchanged_since >= ttl_s:
            if _put_next(objects, folder, token, owner):
                return Lease(token + 1, owner, objects, folder)
            continue
        if (alive or _is_alive(record)) and time.monotonic() - started >= wait_s:
            raise InFlight(
                f"{_owner(record)} is writing this tenant's index; wait for it or cancel it", retry_after_s=2
            )
        time.sleep(_POLL_S)


def _put_next(objects: Objects, folder: str, token: int, owner: str) -> bool:
    """Take number `token + 1`; a taker that slept while old numbers were cleared away finds a newer one and loses."""
    if not objects.put_new(_key(folder, token + 1), _record(owner, beat=0)):
        return False
    if _newest(objects, folder) != token + 1:
        objects.delete(_key(folder, token + 1))
        return False
    for old in objects.keys(folder)[:-2]:
        objects.delete(old)
    return True


def _beat(lease: Lease, every_s: float, stop: threading.Event) -> None:
    beat = 0
    while not stop.wait(every_s):
        beat += 1
        # A store that is away for a moment costs a beat; one that stays away costs the lease, which check() tells.
        with suppress(Unavailable, OSError):
            if _newest(lease.objects, lease.folder) != lease.token:
                lease.lost.set()
                return
            lease.objects.put(_key(lease.folder, lease.token), _record(lease.owner, beat=beat), durable=False)


def _newest(objects: Objects, folder: str) -> int:
    keys = objects.keys(folder)
    return int(Path(keys[-1]).stem) if keys else 0


def _key(folder: str, token: int) -> str:
    return f"{folder}/{token:020d}.json"


def _record(owner: str, *, beat: int, released: bool = False) -> bytes:
    return json.dumps(
        {"owner": owner, "process": process_identity(), "beat": beat, "released": released}, sort_keys=True
    ).encode()


def _owner(record: bytes | None) -> str:
    return str(json.loads(record)["owner"]) if record else "another writer"


def _is_free(record: bytes | None) -> bool:
    if record is None:
        return True
    value = json.loads(record)
    return bool(value["released"]) or is_running(value["process"]) is False


def _is_alive(record: bytes | None) -> bool:
    return record is not None and is_running(json.loads(record)["process"]) is True


def process_identity() -> str:
    """Name the calling process unmistakably: boot, namespace, id, start time; "" where /proc tells nothing."""
    started = _started(os.getpid())
    return f"{_machine()}:{os.getpid()}:{started}" if started else ""


def is_running(identity: str) -> bool | None:
    """Whether that process lives; None when it is another machine's, or this system cannot tell."""
    machine, _, rest = identity.rpartition(":")[0].rpartition(":")
    pid, started = rest, identity.rpartition(":")[2]
    if not machine or machine != _machine():
        return None
    return _started(int(pid)) == started


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Clock ticks since boot at which the process started; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
