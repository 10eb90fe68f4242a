"""Idempotency keys by Stripe's rules, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from tenants.errors import InFlight, InvalidInput
from tenants.records import StoredResponse, Tenant
from tenants.store import Store
from tenants.tables import IDEMPOTENCY


def test_the_first_works_the_repeat_gets_its_answer(store: Store, acme: Tenant):
    assert store.begin(acme.uid, "k", "digest") is None
    store.finish(acme.uid, "k", 201, {"Location": "/x"}, b'{"a": 1}\x00')
    expected = StoredResponse(201, {"Location": "/x"}, b'{"a": 1}\x00')
    assert [store.begin(acme.uid, "k", "digest") for _ in range(2)] == [expected, expected]


def test_a_repeat_in_flight_is_told_so(store: Store, acme: Tenant):
    store.begin(acme.uid, "k", "digest")
    with pytest.raises(InFlight) as told:
        store.begin(acme.uid, "k", "digest")
    assert told.value.retry_after_s == 1


@pytest.mark.parametrize("finished", [False, True])
def test_another_body_under_the_key_is_refused(store: Store, acme: Tenant, finished: bool):
    store.begin(acme.uid, "k", "digest")
    if finished:
        store.finish(acme.uid, "k", 200, {}, b"")
    with pytest.raises(InvalidInput, match="another request"):
        store.begin(acme.uid, "k", "other digest")


def test_callers_do_not_meet(store: Store, acme: Tenant):
    assert store.begin(acme.uid, "k", "digest") is None
    assert store.begin("admin", "k", "other") is None


def test_an_abandoned_key_is_free_and_a_finished_one_is_not(store: Store, acme: Tenant):
    store.begin(acme.uid, "k", "digest")
    store.abandon(acme.uid, "k")
    assert store.begin(acme.uid, "k", "other digest") is None
    store.finish(acme.uid, "k", 200, {}, b"first")
    store.abandon(acme.uid, "k")
    store.finish(acme.uid, "k", 500, {}, b"second")
    assert store.begin(acme.uid, "k", "other digest") == StoredResponse(200, {}, b"first")


def test_an_answer_is_kept_for_24_hours(store: Store, acme: Tenant, clock: Any):
    store.begin(acme.uid, "k", "digest")
    store.finish(acme.uid, "k", 200, {}, b"")
    clock.forward(hours=23, minutes=59)
    assert store.begin(acme.uid, "k", "digest") is not None
    clock.forward(minutes=1)
    assert store.begin(acme.uid, "k", "other digest") is None


def test_a_dead_request_frees_its_key_after_the_lock(store: Store, acme: Tenant, clock: Any):
    store.begin(acme.uid, "k", "digest")
    clock.now += timedelta(minutes=10)
    assert store.begin(acme.uid, "k", "digest") is None


def test_expired_rows_go_away_by_themselves(store: Store, acme: Tenant, clock: Any):
    for number in range(5):
        store.begin(acme.uid, f"k{number}", "digest")
    clock.forward(hours=25)
    store.begin(acme.uid, "fresh", "digest")
    with store._database.reading() as connection:
        assert [row.key for row in connection.execute(select(IDEMPOTENCY))] == ["fresh"]


def test_of_many_threads_one_works(store: Store, acme: Tenant):
    def begin(_: int) -> str:
        try:
            return "works" if store.begin(acme.uid, "k", "digest") is None else "replay"
        except InFlight:
            return "in flight"

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(begin, range(48)))
    assert sorted(outcomes) == ["in flight"] * 47 + ["works"]


def test_a_stored_body_is_not_readable_in_the_database(store: Store, acme: Tenant):
    store.begin("admin", "k", "digest", tenant="acme")
    store.finish("admin", "k", 201, {}, b'{"api_key": "fk_secret"}')
    with store._database.reading() as connection:
        assert b"fk_secret" not in connection.execute(select(IDEMPOTENCY.c.body)).scalar_one()


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "ä", "a\x00"])
def test_a_key_is_printable_ascii(store: Store, key: str):
    with pytest.raises(InvalidInput, match="1-255 printable"):
        store.begin("admin", key, "digest")
