"""Jobs, their errors, feedback and daily usage in the store, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tenants.errors import Conflict, InvalidInput, NotFound, QuotaExceeded
from tenants.records import JobError, Tenant
from tenants.store import Store

SPEC = {"sources": ["docs"], "sync": False}


def test_a_job_goes_from_queued_to_succeeded(store: Store, acme: Tenant, clock: Any):
    queued = store.create_job(acme, "job_1", SPEC)
    assert (queued.state, queued.spec, queued.counts, queued.cancel_requested) == ("queued", SPEC, {}, False)
    clock.forward(seconds=2)
    running = store.update_job("job_1", state="running", stage="embed", progress={"rate": 12.5})
    assert (running.started_at, running.progress) == (clock.now, {"rate": 12.5})
    clock.forward(seconds=3)
    counts = {"documents": {"new": 3, "failed": 1}, "chunks": 9}
    done = store.update_job("job_1", state="succeeded", counts=counts, index_version=4, mlflow_run_id="r")
    assert (done.finished_at, done.started_at) == (clock.now, clock.now - timedelta(seconds=3))
    assert (done.counts, done.index_version, done.mlflow_run_id) == (counts, 4, "r")
    assert store.get_job(acme, "job_1") == done


def test_the_same_id_with_the_same_spec_is_the_same_job(store: Store, acme: Tenant):
    first = store.create_job(acme, "job_1", SPEC)
    assert store.create_job(acme, "job_1", dict(reversed(SPEC.items()))) == first
    with pytest.raises(Conflict):
        store.create_job(acme, "job_1", {"sources": ["other"]})
    with pytest.raises(Conflict):
        store.create_job(store.create_tenant("other"), "job_1", SPEC)


def test_a_finished_job_changes_only_after_a_restart(store: Store, acme: Tenant):
    store.create_job(acme, "job_1", SPEC)
    store.update_job("job_1", state="failed", error="the disk is full; free some space")
    store.add_job_errors("job_1", [JobError("d", "", "empty", "no text")])
    with pytest.raises(Conflict, match="restart"):
        store.update_job("job_1", state="running")
    again = store.restart_job("job_1")
    assert (again.state, again.error, again.finished_at) == ("queued", None, None)
    assert store.count_job_errors("job_1") == 0
    store.update_job("job_1", state="succeeded")
    with pytest.raises(Conflict, match="succeeded"):
        store.restart_job("job_1")


def test_anothers_job_is_as_unknown_as_none(store: Store, acme: Tenant):
    store.create_job(acme, "job_1", SPEC)
    other = store.create_tenant("other")
    for job_id in ("job_1", "job_2", "a\x00b", "ä", ""):
        with pytest.raises(NotFound):
            store.get_job(other, job_id)
        with pytest.raises(NotFound):
            store.request_cancel(other, job_id)
    assert store.find_job("job_1").uid == acme.uid


def test_a_queued_job_is_cancelled_at_once_a_running_one_is_asked(store: Store, acme: Tenant):
    store.create_job(acme, "job_1", SPEC)
    assert store.request_cancel(acme, "job_1").state == "cancelled"
    assert store.request_cancel(acme, "job_1").state == "cancelled"
    store.create_job(acme, "job_2", SPEC)
    store.update_job("job_2", state="running")
    assert not store.cancel_requested("job_2")
    assert store.request_cancel(acme, "job_2").state == "running"
    assert store.cancel_requested("job_2")
    store.update_job("job_2", state="succeeded")
    with pytest.raises(Conflict, match="nothing to cancel"):
        store.request_cancel(acme, "job_2")


def test_a_job_of_a_deleted_tenant_learns_it(store: Store, acme: Tenant):
    store.create_job(acme, "job_1", SPEC)
    store.delete_tenant("acme")
    with pytest.raises(NotFound):
        store.cancel_requested("job_1")
    with pytest.raises(NotFound):
        store.update_job("job_1", state="running")
    with pytest.raises(NotFound):
        store.add_job_errors("job_1", [JobError("d", "", "empty", "no text")])
    with pytest.raises(NotFound):
        store.create_job(acme, "job_1", SPEC)


def test_an_unknown_field_is_refused(store: Store, acme: Tenant):
    store.create_job(acme, "job_1", SPEC)
    with pytest.raises(InvalidInput, match="uid"):
        store.update_job("job_1", uid="t_other")


def test_jobs_are_paged_newest_first(store: Store, acme: Tenant):
    store.create_job(store.create_tenant("other"), "job_other", SPEC)
    for number in range(5):
        store.create_job(acme, f"job_{number}", SPEC)
    pages, cursor = [], None
    while True:
        rows, cursor = store.list_jobs(acme, cursor, limit=2)
        pages.append([row.job_id for row in rows])
        if cursor is None:
            break
    assert pages == [["job_4", "job_3"], ["job_2", "job_1"], ["job_0"]]


@pytest.mark.parametrize("cursor", ["x", "-1", "1.0", "", "٣", "9" * 30])
def test_a_foreign_cursor_or_limit_is_refused(store: Store, acme: Tenant, cursor: str):
    with pytest.raises(InvalidInput, match="cursor"):
        store.list_jobs(acme, cursor)
    with pytest.raises(InvalidInput, match="limit"):
        store.list_jobs(acme, None, limit=0)


def test_error_rows_are_kept_once_whole_and_in_order(store: Store, acme: Tenant):
    store.create_job(acme, "job_1", SPEC)
    rows = [JobError(f"d{n}", "s", "empty", "no text") for n in range(1_203)]
    store.add_job_errors("job_1", rows)
    store.add_job_errors("job_1", rows[:7])
    store.add_job_errors("job_1", [JobError("d0", "s", "timeout", "too slow")])
    store.add_job_errors("job_1", [])
    first, cursor = store.list_job_errors("job_1", limit=1_000)
    second, end = store.list_job_errors("job_1", cursor, limit=1_000)
    assert first + second == [*rows, JobError("d0", "s", "timeout", "too slow")]
    assert end is None
    assert store.count_job_errors("job_1") == 1_204


def test_error_rows_survive_hostile_text(store: Store, acme: Tenant):
    store.create_job(acme, "job_1", SPEC)
    store.add_job_errors("job_1", [{"document_id": "a\x00\ud800" + "é" * 2000, "code": "x", "message": "m" * 9999}])
    (row,), _ = store.list_job_errors("job_1")
    assert row.document_id == "a\ufffd?" + "é" * 2000
    assert row.message == "m" * 500


def test_feedback_is_kept_per_tenant(store: Store, acme: Tenant):
    other = store.create_tenant("other")
    body = {"rating": -1, "comment": "nul \x00 and lone \ud800", "relevant": ["c_1"]}
    store.add_feedback(acme, "q_1", body)
    store.add_feedback(acme, "q_2", {"rating": 1})
    (first,), cursor = store.list_feedback(acme, limit=1)
    (second,), end = store.list_feedback(acme, cursor, limit=1)
    assert (first.query_id, first.body, second.query_id, end) == ("q_1", body, "q_2", None)
    assert store.list_feedback(other) == ([], None)


def test_a_daily_quota_counts_to_its_edge_and_renews_at_midnight(store: Store, acme: Tenant, clock: Any):
    assert store.spend_today(acme, "index_bytes", 60, 100) == 60
    assert store.spend_today(acme, "index_bytes", 40, 100) == 100
    with pytest.raises(QuotaExceeded, match="1 index bytes, and 0 are left of your quota of 100 a day") as refused:
        store.spend_today(acme, "index_bytes", 1, 100)
    assert refused.value.retry_after_s == 12 * 3600
    assert store.used_today(acme, "index_bytes") == 100, "a refusal counts nothing"
    assert store.spend_today(acme, "index_bytes", 1, None) == 101
    clock.forward(hours=12)
    assert store.used_today(acme, "index_bytes") == 0
    assert store.spend_today(acme, "index_bytes", 100, 100) == 100
