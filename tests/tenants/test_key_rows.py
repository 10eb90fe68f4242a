"""Keys in the store, on both databases, and the cache in front of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from tenants import keys
from tenants.errors import InvalidInput, NotFound, Unauthenticated, Unavailable
from tenants.records import Tenant
from tenants.store import KeyCache, Store, open_store
from tenants.tables import KEYS


def test_a_new_key_authenticates_as_its_tenant(store: Store, acme: Tenant, clock: Any):
    plain, info = store.add_key(acme, "index", clock.now + timedelta(days=1))
    credential = store.authenticate(plain)
    assert (credential.tenant, credential.key_id, credential.scope) == (acme, info.key_id, "index")
    assert credential.expires_at == info.expires_at
    assert store.list_keys(acme) == [info]


def test_the_database_holds_a_hash_and_not_the_key(store: Store, acme: Tenant):
    plain, _ = store.add_key(acme, "query")
    secret = keys.parse_key(plain).secret
    with store._database.reading() as connection:
        row = connection.execute(select(KEYS)).one()
    assert row.digest == keys.digest(secret, b"a pepper of the tests, 32 bytes!")
    assert not any(secret in str(value) for value in row)


def test_a_guessed_secret_under_a_known_id_fails(store: Store, acme: Tenant):
    _, info = store.add_key(acme, "query")
    with pytest.raises(Unauthenticated):
        store.authenticate(keys.Key(info.key_id, "00" * 32).text)


def test_an_unknown_key_fails(store: Store):
    with pytest.raises(Unauthenticated):
        store.authenticate(keys.new_key().text)


def test_a_revoked_key_fails_and_stays_listed(store: Store, acme: Tenant, clock: Any):
    plain, info = store.add_key(acme, "query")
    store.revoke_key(acme, info.key_id)
    revoked_at = clock.now
    clock.forward(hours=1)
    store.revoke_key(acme, info.key_id)
    with pytest.raises(Unauthenticated, match="revoked"):
        store.authenticate(plain)
    assert [key.revoked_at for key in store.list_keys(acme)] == [revoked_at]


def test_a_key_ends_at_its_expiry(store: Store, acme: Tenant, clock: Any):
    plain, _ = store.add_key(acme, "query", clock.now + timedelta(hours=1))
    clock.forward(minutes=59, seconds=59)
    store.authenticate(plain)
    clock.forward(seconds=1)
    with pytest.raises(Unauthenticated, match="expired"):
        store.authenticate(plain)


def test_a_past_expiry_and_a_bad_scope_are_refused(store: Store, acme: Tenant, clock: Any):
    with pytest.raises(InvalidInput, match="past"):
        store.add_key(acme, "query", clock.now)
    with pytest.raises(InvalidInput, match="scope"):
        store.add_key(acme, "root")


def test_a_tenant_cannot_revoke_anothers_key(store: Store, acme: Tenant):
    plain, info = store.add_key(acme, "query")
    with pytest.raises(NotFound):
        store.revoke_key(store.create_tenant("other"), info.key_id)
    with pytest.raises(NotFound):
        store.revoke_key(acme, "\x00")
    assert store.authenticate(plain).key_id == info.key_id


def test_a_suspended_tenants_key_is_genuine_and_carries_the_state(store: Store, acme: Tenant):
    plain, _ = store.add_key(acme, "query")
    store.set_state("acme", "suspended")
    assert store.authenticate(plain).tenant.state == "suspended"


def test_another_pepper_is_refused_at_opening(store: Store, store_url: str):
    with pytest.raises(Unavailable, match="FATHOM_PEPPER"):
        open_store(store_url, pepper=b"another")


def test_without_a_pepper_no_key_is_made(store: Store, acme: Tenant, store_url: str):
    bare = open_store(store_url)
    assert bare.get_tenant("acme") == acme
    with pytest.raises(Unavailable, match="pepper"):
        bare.add_key(acme, "query")
    bare.close()


def test_the_cache_forgets_a_revoked_key_within_its_time(store: Store, acme: Tenant):
    now = [0.0]
    cache = KeyCache(store, ttl_s=1.0, timer=lambda: now[0])
    plain, info = store.add_key(acme, "query")
    assert cache.cached(plain) is None
    assert cache.authenticate(plain) == cache.cached(plain)
    store.revoke_key(acme, info.key_id)
    now[0] = 0.99
    assert cache.authenticate(plain).key_id == info.key_id
    now[0] = 1.0
    with pytest.raises(Unauthenticated):
        cache.authenticate(plain)
    with pytest.raises(Unauthenticated):
        cache.cached(plain)  # the refusal is remembered


def test_the_cache_never_lives_longer_than_a_second(store: Store, acme: Tenant):
    now = [0.0]
    cache = KeyCache(store, ttl_s=3600, timer=lambda: now[0])
    plain, _ = store.add_key(acme, "query")
    cache.authenticate(plain)
    now[0] = 1.0
    assert cache.cached(plain) is None


def test_use_is_noted_only_when_flushed(store: Store, acme: Tenant, clock: Any):
    cache = KeyCache(store)
    plain, _ = store.add_key(acme, "query")
    cache.authenticate(plain)
    assert [key.last_used_at for key in store.list_keys(acme)] == [None]
    cache.flush_use()
    assert [key.last_used_at for key in store.list_keys(acme)] == [clock.now]
    clock.forward(hours=1)
    cache.flush_use()
    assert [key.last_used_at for key in store.list_keys(acme)] == [clock.now - timedelta(hours=1)]
