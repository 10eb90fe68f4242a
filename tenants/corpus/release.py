"""The published version of a tenant's index: publish, roll back, withdraw; each one an atomic flip.

What happened is a log of immutable, numbered objects `releases/log/{sequence}.json`, written by put-if-absent:
of two writers only one gets a number, so a writer that lost its lease can never publish over its successor.
`releases/CURRENT` repeats the newest state for readers, who need one small read. A crash between the two leaves
readers on the old version; the next holder of the lease repairs the pointer. Entries:

    publish   a new version, with the whole release
    rollback  an older version serves again
    withdraw  versions that can never serve again, and why (erased documents, retention)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from tenants.corpus.lease import Lease
from tenants.corpus.objects import Objects, open_objects
from tenants.errors import Conflict, LeaseLost, NotFound
from tenants.scope import Release, TenantScope

_LOG = "releases/log"
_CURRENT = "releases/CURRENT"


@dataclass(frozen=True, slots=True)
class History:
    """The log, folded. `sequence` is its last number, `serving` the current version (0 = none).

    `latest` is the highest version ever given; `withdrawn` maps versions to the reason.
    """

    sequence: int = 0
    serving: int = 0
    latest: int = 0
    releases: Mapping[int, Release] = field(default_factory=dict)
    withdrawn: Mapping[int, str] = field(default_factory=dict)


def current(scope: TenantScope) -> Release | None:
    """The version that serves now, None while nothing is published. One small read."""
    data = open_objects(scope.base).get(_CURRENT)
    value = json.loads(data)["release"] if data else None
    return Release(**value) if value else None


def pinned(scope: TenantScope) -> TenantScope:
    """The scope with the version that serves now; one question keeps it to its end."""
    return replace(scope, release=current(scope))


def list_releases(scope: TenantScope) -> list[Release]:
    """The versions that can serve, oldest first."""
    history = read_history(scope)
    return [release for version, release in sorted(history.releases.items()) if version not in history.withdrawn]


def read_history(scope: TenantScope) -> History:
    """Read and fold the whole log."""
    return _fold(_entries(open_objects(scope.base)))


def publish(scope: TenantScope, release: Release, lease: Lease) -> Release:
    """Make `release` the serving version and return it with its number and time filled in.

    `release.version` is ignored: numbers are given here, from 1. Raises `LeaseLost`.
    """
    history = _repaired(scope, lease)
    numbered = replace(release, version=history.latest + 1, published_at=_now())
    _append(scope, history, lease, {"action": "publish", "version": numbered.version, "release": asdict(numbered)})
    return numbered


def rollback(scope: TenantScope, to: int | None, lease: Lease) -> Release:
    """Let version `to` serve again, by default the newest usable one below the current.

    Raises `NotFound` for a number never published, `Conflict` when that version was withdrawn or there is none.
    """
    history = _repaired(scope, lease)
    usable = [version for version in history.releases if version not in history.withdrawn]
    target = to if to is not None else max((v for v in usable if v < history.serving), default=0)
    if target in history.withdrawn:
        raise Conflict(f"version {target} cannot serve again: {history.withdrawn[target]}; choose another version")
    if target not in history.releases:
        raise _no_version(to)
    release = history.releases[target]
    if target != history.serving:
        _append(scope, history, lease, {"action": "rollback", "version": target})
    return release


def withdraw(scope: TenantScope, versions: Sequence[int], reason: str, lease: Lease) -> None:
    """Bar `versions` from ever serving again; their numbers and the reason stay, their entries go.

    Raises `Conflict` for the serving version.
    """
    history = _repaired(scope, lease)
    if history.serving in versions:
        raise Conflict(f"version {history.serving} serves now; publish or roll back first")
    if versions:
        _append(scope, history, lease, {"action": "withdraw", "version": 0, "versions": [*versions], "reason": reason})
        _trim(open_objects(scope.base), set(versions))


def repair(scope: TenantScope, lease: Lease) -> History:
    """Bring CURRENT up to the log after a writer's death; every writer calls it before it starts."""
    return _repaired(scope, lease)


def _repaired(scope: TenantScope, lease: Lease) -> History:
    lease.check()
    history = read_history(scope)
    _point(open_objects(scope.base), history)
    return history


def _append(scope: TenantScope, history: History, lease: Lease, entry: Mapping[str, Any]) -> None:
    objects = open_objects(scope.base)
    lease.check()
    sequence = history.sequence + 1
    written = {**entry, "at": _now(), "token": lease.token, "owner": lease.owner}
    if not objects.put_new(f"{_LOG}/{sequence:010d}.json", json.dumps(written, sort_keys=True).encode()):
        raise LeaseLost("another writer published first; run the job again to go on from there")
    _point(objects, read_history(scope))


def _point(objects: Objects, history: History) -> None:
    """Write CURRENT unless it is as new already: a writer that slept cannot turn readers back."""
    release = history.releases.get(history.serving)
    state = {"sequence": history.sequence, "release": asdict(release) if release else None}

    def newer(data: bytes | None) -> bytes | None:
        if data is not None and json.loads(data)["sequence"] >= history.sequence:
            return None
        return json.dumps(state, sort_keys=True).encode()

    found = objects.get(_CURRENT)
    if history.sequence and (found is None or json.loads(found)["sequence"] < history.sequence):
        objects.swap(_CURRENT, newer)


def _entries(objects: Objects) -> list[tuple[int, dict[str, Any]]]:
    entries = []
    for key in objects.keys(_LOG):
        data = objects.get(key)
        if data is not None:
            entries.append((int(key.rpartition("/")[2].partition(".")[0]), json.loads(data)))
    return entries


def _fold(entries: Sequence[tuple[int, Mapping[str, Any]]]) -> History:
    releases: dict[int, Release] = {}
    withdrawn: dict[int, str] = {}
    sequence = serving = latest = 0
    for sequence, entry in entries:  # noqa: B007 - the last number is wanted
        if entry["action"] == "withdraw":
            withdrawn.update(dict.fromkeys(entry["versions"], entry["reason"]))
            latest = max(latest, *entry["versions"])
            continue
        if entry["action"] == "publish":
            latest = max(latest, entry["version"])
            releases[entry["version"]] = Release(**entry["release"])
        serving = entry["version"]
    return History(sequence, serving, latest, releases, withdrawn)


def _trim(objects: Objects, versions: set[int]) -> None:
    """Delete the entries of withdrawn versions: their profiles were learned from text that may be erased."""
    for sequence, entry in _entries(objects):
        if entry["action"] == "publish" and entry["version"] in versions:
            objects.delete(f"{_LOG}/{sequence:010d}.json")


def _no_version(to: int | None) -> Exception:
    if to is None:
        return Conflict("there is no earlier version to roll back to; publish a second version first")
    return NotFound(f"there is no version {to}; list the versions to see which can serve")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
