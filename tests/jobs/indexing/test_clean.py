"""Characters: what cannot be seen goes, what can be seen stays, bytes become the right letters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.indexing.clean import clean, decode
from jobs.indexing.reasons import ParseFailure, Reason


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\u200bb", "ab"),
        ("\u202egnp.exe\u202c", "gnp.exe"),
        ("x\U000e0049\U000e0067y", "xy"),
        ("soft\u00adhyphen", "softhyphen"),
        ("a\u200db", "ab"),
        ("\u0646\u200c\u0645", "\u0646\u200c\u0645"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("m\u00b2 \u00bd \ufb01", "m\u00b2 \u00bd \ufb01"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\r\nb\rc\x0cd\u2028e", "a\nb\nc\nd\ne"),
        ("nul\x00\x07", "nul"),
        ("\ud800x", "\ufffdx"),
    ],
)
def test_clean(raw: str, shown: str) -> None:
    assert clean(raw) == shown


@given(st.text(st.characters(), max_size=200))
def test_cleaning_twice_changes_nothing_and_leaves_nothing_hidden(raw: str) -> None:
    once = clean(raw)
    once.encode("utf-8")
    assert unicodedata.is_normalized("NFC", once)
    assert not {c for c in once if unicodedata.category(c) == "Cc" and c not in "\n\t"}
    assert clean(once) == once


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8-sig", "naïve café"),
        ("utf-16", "naïve café"),
        ("utf-16-le", "plain words without a mark"),
        ("utf-16-be", "plain words without a mark"),
        ("utf-32", "naïve"),
        ("cp1252", "The naïve résumé of the café – “quoted” – costs 5 €."),
        ("cp1251", "Гавань открыта каждый день недели, кроме праздников. Корабли выходят утром."),
        ("shift_jis", "この港は祝日を除いて毎日開いています。朝から夕方まで船が出ます。"),
        ("gb18030", "港口每天开放，节假日除外。船只从早到晚出海。欢迎各位来宾。"),
    ],
)
def test_decode_finds_the_encoding(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == text


def test_a_declared_encoding_counts_when_the_bytes_are_no_utf8() -> None:
    assert decode("příliš žluťoučký".encode("iso8859-2"), "iso-8859-2") == "příliš žluťoučký"


def test_damaged_utf8_is_repaired_not_reinterpreted() -> None:
    data = ("наука и жизнь " * 20).encode() + b"\xff" + "мир".encode()
    assert decode(data).endswith("\ufffdмир")


def test_binary_is_refused() -> None:
    with pytest.raises(ParseFailure) as caught:
        decode(bytes(range(256)) * 20)
    assert caught.value.reason is Reason.UNSUPPORTED
