"""Stored token ids become windows: whole passages, bounded queries, batches that a pair's neighbours cannot change."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from services.models import BUILTIN, locate
from services.reranking.pairs import PairTokenizer, PairWindows, pair_batches, tokenizer_digest

CLS, SEP = 101, 102
HOSTILE = (
    "",
    " \n\t",
    "\x00\x01",
    "a\ud800b",
    "\u202ertl\u202c",
    "e" + "\u0301" * 500,
    "x" * 200_000,
    "日本語 العربية",
)


@pytest.fixture(scope="module")
def tokenizer_json() -> str:
    return (locate(BUILTIN).path / "tokenizer.json").read_text("utf-8")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_json: str) -> PairTokenizer:
    return PairTokenizer(tokenizer_json, 64)


def stored(*ids: int) -> bytes:
    return np.array(ids, "<u4").tobytes()


def numbers(count: int, start: int = 1000) -> list[int]:
    return list(range(start, start + count))


def test_pair_is_what_the_tokenizer_itself_makes_of_two_texts(tokenizer: PairTokenizer, tokenizer_json: str) -> None:
    plain = Tokenizer.from_str(tokenizer_json)
    plain.no_padding()
    query, passage = "How tall is Mont Blanc?", "Mont Blanc, 4,806 m, is the Alps' highest peak."
    expected = plain.encode(query, passage)
    windows = tokenizer.windows([tuple(tokenizer.ids([query, passage]))])
    assert windows.ids[0].tolist() == expected.ids
    (batch,) = pair_batches(windows, budget_tokens=1, multiple=1, pad_id=0)
    assert batch.types[0].tolist() == expected.type_ids


def test_ids_are_little_endian_words_without_special_tokens(tokenizer: PairTokenizer) -> None:
    (ids,) = tokenizer.ids(["hello world"])
    assert np.frombuffer(ids, "<u4").tolist() == [7592, 2088]


def test_text_that_spells_a_special_token_stays_text(tokenizer: PairTokenizer) -> None:
    (ids,) = tokenizer.ids(["end [SEP] of [CLS] it [PAD]"])
    assert not {0, CLS, SEP} & set(np.frombuffer(ids, "<u4").tolist())


@pytest.mark.parametrize("query", HOSTILE)
def test_hostile_text_gives_windows(tokenizer: PairTokenizer, query: str) -> None:
    ids = tokenizer.ids([query, *HOSTILE])
    windows = tokenizer.windows([(ids[0], passage) for passage in ids[1:]])
    assert set(windows.owner.tolist()) == set(range(len(HOSTILE)))
    assert windows.lengths().max() <= 64
    assert all(ids[0] == CLS and ids[-1] == SEP for ids in windows.ids)


@given(query=st.integers(0, 200), passage=st.integers(0, 400))
def test_no_token_of_a_passage_is_lost_and_a_query_keeps_both_ends(query: int, passage: int) -> None:
    tokenizer = _LETTERS
    asked, told = numbers(query), numbers(passage, 5000)
    windows = tokenizer.windows([(stored(*asked), stored(*told))])
    heads = {tuple(ids[1 : first - 1].tolist()) for ids, first in zip(windows.ids, windows.first, strict=True)}
    tails = [ids[first:-1].tolist() for ids, first in zip(windows.ids, windows.first, strict=True)]
    (head,) = heads
    assert sorted({token for tail in tails for token in tail}) == told
    assert windows.lengths().max() <= tokenizer.max_tokens
    if query:
        assert (head[0], head[-1]) == (asked[0], asked[-1]) or len(head) == 1
    assert len(head) >= min(query, (tokenizer.max_tokens - 3) // 2)
    if passage:
        assert min(map(len, tails)) >= min(passage, (tokenizer.max_tokens - 3) // 2)


def _letters() -> PairTokenizer:
    return PairTokenizer((locate(BUILTIN).path / "tokenizer.json").read_text("utf-8"), 32)


_LETTERS = _letters()


def test_neighbouring_windows_overlap(tokenizer: PairTokenizer) -> None:
    windows = tokenizer.windows([(stored(7), stored(*numbers(150)))])
    parts = [set(ids[3:-1].tolist()) for ids in windows.ids]
    assert len(parts) == 3
    assert all(len(left & right) >= 15 for left, right in pairwise(parts))


def test_a_passage_is_as_relevant_as_its_best_window() -> None:
    windows = PairWindows((np.zeros(1, np.int64),) * 5, np.zeros(5, np.int64), np.array([0, 1, 1, 1, 2]))
    assert windows.highest(np.array([-3, 1, 5, 2, 0], np.float32)).tolist() == [-3, 5, 0]
    empty = PairWindows((), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert empty.highest(np.zeros(0, np.float32)).shape == (0,)


def test_batches_hold_one_width_within_the_budget(tokenizer: PairTokenizer) -> None:
    windows = tokenizer.windows([(stored(7), stored(*numbers(length))) for length in (1, 60, 2, 33, 3, 58, 4, 200)])
    batches = list(pair_batches(windows, budget_tokens=128, multiple=16, pad_id=9))
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(range(len(windows.ids)))
    for batch in batches:
        assert batch.ids.size <= 128
        lengths = windows.lengths()[batch.rows]
        assert set(-(-lengths // 16) * 16) == {batch.ids.shape[1]}
        assert batch.mask.sum(axis=1).tolist() == lengths.tolist()
        assert (batch.ids[batch.mask == 0] == 9).all()
        assert not batch.types[batch.mask == 0].any()


def test_digest_names_the_vocabulary_not_how_it_is_cut(tokenizer_json: str, tmp_path: Path) -> None:
    parts = json.loads(tokenizer_json)
    assert tokenizer_digest(json.dumps(parts | {"truncation": None, "padding": None})) == tokenizer_digest(
        tokenizer_json
    )
    parts["normalizer"]["lowercase"] = False
    assert tokenizer_digest(json.dumps(parts)) != tokenizer_digest(tokenizer_json)
