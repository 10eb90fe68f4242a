"""Keys: the printed form, the hash, the scopes and the expiry are pure functions."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants import keys
from tenants.errors import InvalidInput, Unauthenticated

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_a_new_key_reads_back_as_itself():
    key = keys.new_key()
    assert keys.parse_key(key.text) == key
    assert len(key.secret) == 64, "256 bits as hex"


def test_two_new_keys_differ():
    assert keys.new_key().secret != keys.new_key().secret


def test_a_key_never_shows_its_secret_when_printed():
    key = keys.new_key()
    assert key.secret not in repr(key)


@given(position=st.integers(0, 90), replacement=st.sampled_from("0123456789abcdefxyz_ \x00é"))
def test_one_changed_character_is_no_key(position: int, replacement: str):
    text = keys.Key("0123456789ab", "ab" * 32).text
    position %= len(text)
    changed = text[:position] + replacement + text[position + 1 :]
    if changed != text:
        with pytest.raises(Unauthenticated):
            keys.parse_key(changed)


@given(st.text())
def test_any_other_text_is_no_key(text: str):
    with pytest.raises(Unauthenticated):
        keys.parse_key(text)


def test_the_stored_digest_is_hmac_sha256_of_the_secret_under_the_pepper():
    expected = hmac.new(b"pepper", b"secret", hashlib.sha256).hexdigest()
    assert keys.digest("secret", b"pepper") == expected
    assert keys.verify("secret", b"pepper", expected)
    assert not keys.verify("secret", b"other pepper", expected)


def test_scopes_contain_the_smaller_ones():
    order = ("query", "index", "admin")
    allowed = {(held, needed) for held in order for needed in order if keys.allows(held, needed)}
    assert allowed == {
        ("query", "query"),
        ("index", "query"),
        ("index", "index"),
        ("admin", "query"),
        ("admin", "index"),
        ("admin", "admin"),
    }


def test_an_unknown_scope_names_the_known_ones():
    with pytest.raises(InvalidInput, match="query, index or admin"):
        keys.key_scope("root")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("90d", NOW + timedelta(days=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("30m", NOW + timedelta(minutes=30)),
        ("2w", NOW + timedelta(weeks=2)),
        ("2026-03-02", datetime(2026, 3, 2, tzinfo=UTC)),
        ("2026-03-01T14:00:00+01:00", datetime(2026, 3, 1, 13, 0, tzinfo=UTC)),
    ],
)
def test_expiry_is_a_duration_or_an_iso_time(text: str | None, expected: datetime | None):
    assert keys.expiry(text, NOW) == expected


@pytest.mark.parametrize(
    "text",
    ["", "soon", "90", "-1d", "0d", "999999w", "2026-02-28", "2026-03-01T12:00:00Z", "9999-12-31T23:59:59-14:00"],
)
def test_a_bad_or_past_expiry_is_refused(text: str):
    with pytest.raises(InvalidInput, match="expires"):
        keys.expiry(text, NOW)
