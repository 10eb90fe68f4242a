"""A tenant's calibrations and drift in the store, on both databases, and the cache in front."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tenants.calibration_rows import KEPT, CalibrationCache
from tenants.errors import NotFound
from tenants.records import Tenant
from tenants.store import Store

PROFILE = {"beta": {"large": 0.4}, "certificates": {}}


def test_the_newest_calibration_serves_and_versions_count_per_tenant(store: Store, acme: Tenant):
    other = store.create_tenant("other")
    assert store.calibrated(acme).profile is None
    assert store.add_calibration(acme, PROFILE, {"n": 1}) == 1
    assert store.add_calibration(other, PROFILE, {}) == 1
    assert store.add_calibration(acme, {"beta": {}}, {"n": 2}) == 2
    assert store.scope_of(acme, "/data").calibration == {"beta": {}}
    assert [(row.version, row.summary) for row in store.list_calibrations(acme)] == [(2, {"n": 2}), (1, {"n": 1})]


def test_only_the_newest_versions_are_kept(store: Store, acme: Tenant):
    for n in range(KEPT + 3):
        store.add_calibration(acme, {"n": n}, {})
    kept = store.list_calibrations(acme, limit=100)
    assert [row.version for row in kept] == list(range(KEPT + 3, 3, -1))


def test_calibrations_and_drift_go_with_their_tenant(store: Store, acme: Tenant):
    store.add_calibration(acme, PROFILE, {})
    store.change_drift(acme, "standard/en", lambda _: {"certificate": "c_1", "alarmed_at": None})
    store.delete_tenant("acme")
    assert (store.list_calibrations(acme), store.list_drift(acme)) == ([], {})
    with pytest.raises(NotFound):
        store.add_calibration(acme, PROFILE, {})
    with pytest.raises(NotFound):
        store.change_drift(acme, "standard/en", lambda _: {"certificate": "c_1", "alarmed_at": None})


def test_an_alarm_reaches_the_scope(store: Store, acme: Tenant):
    store.change_drift(acme, "standard/en", lambda _: {"certificate": "c_1", "alarmed_at": None})
    assert store.scope_of(acme, "/data").alarms == {}
    store.change_drift(acme, "standard/en", lambda old: {**(old or {}), "alarmed_at": "2026-03-01T12:00:00+00:00"})
    assert store.scope_of(acme, "/data").alarms == {"standard/en": "c_1"}
    assert store.scope_of(store.create_tenant("other"), "/data").alarms == {}


def test_changes_of_one_drift_do_not_overwrite_each_other(store: Store, acme: Tenant):
    def one_more(old: Any) -> dict[str, Any]:
        return {"certificate": "c_1", "alarmed_at": None, "n": (old["n"] if old else 0) + 1}

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.change_drift(acme, "standard/en", one_more), range(40)))
    assert store.list_drift(acme)["standard/en"]["n"] == 40


def test_calibrations_at_once_get_different_versions(store: Store, acme: Tenant):
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: store.add_calibration(acme, PROFILE, {}), range(12)))
    assert sorted(versions) == list(range(1, 13))


def test_a_new_calibration_is_live_when_the_cache_forgets(store: Store, acme: Tenant):
    now = [0.0]
    cache = CalibrationCache(store, ttl_s=2.0, timer=lambda: now[0])
    assert cache.cached(acme, "/data") is None
    assert cache.scope_of(acme, "/data").calibration is None
    store.add_calibration(acme, PROFILE, {})
    held = cache.cached(acme, "/data")
    assert held is not None
    assert held.calibration is None
    now[0] = 2.1
    assert cache.cached(acme, "/data") is None
    assert cache.scope_of(acme, "/data").calibration == PROFILE


def test_the_cache_reads_a_profile_once(store: Store, acme: Tenant):
    store.add_calibration(acme, PROFILE, {})
    now = [0.0]
    cache = CalibrationCache(store, ttl_s=2.0, timer=lambda: now[0])
    first = cache.scope_of(acme, "/data").calibration
    now[0] = 2.1
    assert cache.scope_of(acme, "/data").calibration is first
