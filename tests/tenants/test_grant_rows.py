"""Grants: who may search a collection of whose corpus, and that what is not granted looks like what is not there."""

import json

import pytest
from sqlalchemy import update

from tenants.config import TenantConfig
from tenants.errors import InvalidInput, NotFound
from tenants.tables import TENANTS


@pytest.fixture
def library(store):
    return store.create_tenant("library")


def test_a_grant_is_seen_from_both_sides(store, library, acme, clock):
    made = store.grant(library, "manuals", acme)
    assert (made.name, made.subscriber, made.created_at) == ("library/manuals", "acme", clock.now)
    assert store.list_grants(library) == [made] == store.list_grants(acme)
    assert store.granted(acme, ["library/manuals"]) == [(library, "manuals")]
    assert store.granted(library, ["library/manuals"]) == []


def test_granting_again_changes_nothing(store, library, acme, clock):
    first = store.grant(library, "manuals", acme)
    clock.forward(days=1)
    assert store.grant(library, "manuals", acme) == first


def test_only_what_is_named_and_granted_is_given_in_the_order_of_the_names(store, library, acme):
    store.grant(library, "manuals", acme)
    store.grant(library, "laws", acme)
    names = ["library/laws", "library/secret", "nobody/manuals", "library", "a/b/c", "library/manuals"]
    assert store.granted(acme, names) == [(library, "laws"), (library, "manuals")]
    assert store.granted(acme, []) == []


def test_a_revoked_grant_is_gone_at_once(store, library, acme):
    store.grant(library, "manuals", acme)
    store.revoke_grant(library, "manuals", acme)
    assert store.granted(acme, ["library/manuals"]) == []
    with pytest.raises(NotFound):
        store.revoke_grant(library, "manuals", acme)


def test_a_suspended_owner_shares_nothing_until_it_wakes(store, library, acme):
    store.grant(library, "manuals", acme)
    store.set_state("library", "suspended")
    assert store.granted(acme, ["library/manuals"]) == []
    store.set_state("library", "active")
    assert len(store.granted(acme, ["library/manuals"])) == 1


@pytest.mark.parametrize("gone", ["library", "acme"])
def test_grants_go_with_either_tenant(store, library, acme, gone):
    store.grant(library, "manuals", acme)
    store.delete_tenant(gone)
    again = store.create_tenant(gone)
    other = acme if gone == "library" else library
    assert store.list_grants(other) == []
    assert store.granted(again if gone == "acme" else acme, ["library/manuals"]) == []
    with pytest.raises(NotFound):
        store.grant(library, "manuals", acme)


def test_bad_grants_name_their_field(store, library, acme):
    with pytest.raises(InvalidInput) as refused:
        store.grant(library, "no/slash", acme)
    assert refused.value.errors[0].pointer == "/collection"
    with pytest.raises(InvalidInput) as refused:
        store.grant(library, "manuals", library)
    assert refused.value.errors[0].pointer == "/subscriber"


@pytest.mark.parametrize("bad", ["manuals", "a/b/c", "Up/x", "a/", "/b", "a b/c"])
def test_a_configuration_names_shared_collections_as_owner_and_collection(bad):
    with pytest.raises(ValueError, match="shared_collections"):
        TenantConfig(shared_collections=(bad,))
    assert TenantConfig(shared_collections=("library/manuals",)).shared_collections == ("library/manuals",)


def test_a_configuration_from_before_the_feature_still_reads(store, acme):
    stored = json.dumps({"shared_collections": ["just words", "library/manuals"]})
    with store._database.writing() as connection:
        connection.execute(update(TENANTS).where(TENANTS.c.uid == acme.uid).values(config=stored))
    assert store.get_tenant("acme").config.shared_collections == ("library/manuals",)
