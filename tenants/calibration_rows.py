"""A tenant's calibrations in the control plane: versioned profiles, the drift seen in traffic, and the cache before.

A profile is JSON that this room does not read into: services/reranking/profile.py and drift.py do. Rows go with
their tenant. `TenantScope`s are filled here, so that every question, job and command sees the same profile.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cachetools import TTLCache
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError as ConstraintViolated

from tenants.errors import NotFound
from tenants.experiment_rows import live
from tenants.records import Owner, Tenant
from tenants.rows import Rows, hold, to_json
from tenants.scope import Champion, TenantScope, Trial
from tenants.tables import CALIBRATIONS, DRIFT

KEPT = 20  # versions of one tenant
EARLIER = KEPT  # profiles of other models that are served beside the newest

Change = Callable[[Mapping[str, Any] | None], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """One calibration; `version` counts from 1 per tenant. `summary` is what `fathom calibrate` printed."""

    number: int
    version: int
    profile: Mapping[str, Any]
    summary: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a scope is filled with: the newest profile (None = the pooled one), {group: voided certificate}."""

    number: int = 0
    profile: Mapping[str, Any] | None = None
    alarms: Mapping[str, str] = field(default_factory=dict)
    champion: Champion | None = None
    trial: Trial | None = None
    earlier: tuple[Mapping[str, Any], ...] = ()


class CalibrationRows(Rows):
    """Profiles and drift of a tenant."""

    def add_calibration(self, tenant: Owner, profile: Mapping[str, Any], summary: Mapping[str, Any]) -> int:
        """Serve this profile from now on; gives its version. Raises `NotFound` when the tenant is gone."""
        ours = CALIBRATIONS.c.uid == tenant.uid
        row = {"uid": tenant.uid, "profile": to_json(profile), "summary": to_json(summary), "created_at": self._clock()}
        try:
            with self._database.writing() as connection:
                hold(connection, tenant)
                last = connection.execute(select(func.max(CALIBRATIONS.c.version)).where(ours)).scalar_one()
                version = (last or 0) + 1
                connection.execute(CALIBRATIONS.insert().values(**row, version=version))
                connection.execute(delete(CALIBRATIONS).where(ours, CALIBRATIONS.c.version <= version - KEPT))
        except ConstraintViolated:
            raise NotFound("there is no such tenant") from None
        return version

    def list_calibrations(self, tenant: Owner, limit: int = KEPT) -> list[CalibrationRow]:
        """Newest first."""
        ours = CALIBRATIONS.c.uid == tenant.uid
        query = select(CALIBRATIONS).where(ours).order_by(CALIBRATIONS.c.version.desc()).limit(limit)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            CalibrationRow(row.number, row.version, json.loads(row.profile), json.loads(row.summary), row.created_at)
            for row in rows
        ]

    def calibration_summary(self, tenant: Owner) -> dict[str, Any] | None:
        """What a person may see: the newest calibration's summary, its version and time, and each group's drift."""
        rows, drift = self.list_calibrations(tenant, limit=1), self.list_drift(tenant)
        if not rows and not drift:
            return None
        made = {"version": rows[0].version, "created_at": rows[0].created_at.isoformat()} if rows else {}
        return {**(rows[0].summary if rows else {}), **made, "drift": drift}

    def calibrated(self, tenant: Owner, known: Calibrated | None = None) -> Calibrated:
        """What holds now; a profile that `known` has already is not read again."""
        ours = CALIBRATIONS.c.uid == tenant.uid
        voided = select(DRIFT.c.group, DRIFT.c.certificate).where(DRIFT.c.uid == tenant.uid, DRIFT.c.alarmed)
        with self._database.reading() as connection:
            alarms = {row.group: row.certificate for row in connection.execute(voided)}
            number = connection.execute(select(func.max(CALIBRATIONS.c.number)).where(ours)).scalar_one() or 0
            champion, trial = live(connection, tenant)
            if known is not None and known.number == number:
                return Calibrated(number, known.profile, alarms, champion, trial, known.earlier)
            query = select(CALIBRATIONS.c.profile).where(ours).order_by(CALIBRATIONS.c.version.desc())
            profiles = [json.loads(text) for text in connection.execute(query).scalars()]
        newest = profiles[0] if profiles else None
        return Calibrated(number, newest, alarms, champion, trial, _of_other_models(profiles))

    def scope_of(self, tenant: Tenant, root: str) -> TenantScope:
        """The tenant's scope for a job or a command; the gateway uses `CalibrationCache`."""
        return filled(tenant, root, self.calibrated(tenant))

    def change_drift(self, tenant: Owner, group: str, change: Change) -> Mapping[str, Any]:
        """Replace the group's drift by `change(old or None)`, atomically; gives the new one.

        The value names its `certificate` and, once it alarms, has `alarmed_at`. Raises `NotFound` when the tenant is
        gone.
        """
        ours = (DRIFT.c.uid == tenant.uid) & (DRIFT.c.group == group)
        with self._database.writing() as connection:
            hold(connection, tenant)
            text = connection.execute(select(DRIFT.c.state).where(ours)).scalar_one_or_none()
            state = change(None if text is None else json.loads(text))
            values: dict[str, Any] = {
                "certificate": state["certificate"],
                "state": to_json(state),
                "alarmed": state["alarmed_at"] is not None,
                "updated_at": self._clock(),
            }
            if text is None:
                connection.execute(DRIFT.insert().values(uid=tenant.uid, group=group, **values))
            else:
                connection.execute(update(DRIFT).where(ours).values(**values))
        return state

    def list_drift(self, tenant: Owner) -> dict[str, Mapping[str, Any]]:
        """{group: its drift}."""
        query = select(DRIFT.c.group, DRIFT.c.state).where(DRIFT.c.uid == tenant.uid).order_by(DRIFT.c.group)
        with self._database.reading() as connection:
            return {row.group: json.loads(row.state) for row in connection.execute(query)}


class CalibrationCache:
    """`CalibrationRows.calibrated` remembered for `ttl_s`: a calibration or promotion is live within that time.

    After that the database is asked for the newest number and the alarms; a profile is read once. Thread-safe.
    """

    def __init__(
        self, store: CalibrationRows, ttl_s: float = 2.0, size: int = 4_096, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._fresh: TTLCache[str, Calibrated] = TTLCache(size, ttl_s, timer)
        self._last: TTLCache[str, Calibrated] = TTLCache(size, 3_600.0, timer)

    def cached(self, tenant: Tenant, root: str) -> TenantScope | None:
        """The tenant's scope from memory, or None: then call `scope_of`, which reads the database."""
        with self._lock:
            found = self._fresh.get(tenant.uid)
        return None if found is None else filled(tenant, root, found)

    def scope_of(self, tenant: Tenant, root: str) -> TenantScope:
        """Raises `Unavailable`."""
        with self._lock:
            known = self._last.get(tenant.uid)
        found = self._store.calibrated(tenant, known)
        with self._lock:
            self._fresh[tenant.uid] = self._last[tenant.uid] = found
        return filled(tenant, root, found)


def filled(tenant: Tenant, root: str, found: Calibrated) -> TenantScope:
    """A scope without a release."""
    return TenantScope(
        tenant.name,
        tenant.uid,
        tenant.config,
        root,
        calibration=found.profile,
        alarms=found.alarms,
        champion=found.champion,
        trial=found.trial,
        earlier=found.earlier,
    )


def _of_other_models(profiles: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The newest profile of each set of models but the newest one's: variants of a tenant may score by others."""
    found: dict[str, Mapping[str, Any]] = {}
    for profile in profiles:
        found.setdefault(to_json({"models": profile.get("models")}), profile)
    return tuple(found.values())[1 : 1 + EARLIER]
