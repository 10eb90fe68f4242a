"""Windows hold every token once; batches hold every window once, inside their budget, with little padding."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.embedding.encoder import describe_encoder
from services.embedding.tokens import Windows, WindowTokenizer, batches
from services.models import BUILTIN

TOKENIZER = WindowTokenizer(describe_encoder(BUILTIN).tokenizer_json, 16)
CLS, SEP = 101, 102


def of_lengths(lengths: list[int]) -> Windows:
    return Windows(tuple([7] * length for length in lengths), np.arange(len(lengths)))


def test_short_text_is_one_window_with_its_special_tokens() -> None:
    windows = TOKENIZER.windows(["hello world"])
    assert [list(ids) for ids in windows.ids] == [[CLS, 7592, 2088, SEP]]


def test_long_text_is_cut_into_full_windows_and_a_rest() -> None:
    windows = TOKENIZER.windows(["short", " ".join(["hello"] * 30)])
    assert windows.lengths().tolist() == [3, 16, 16, 4]
    assert windows.owner.tolist() == [0, 1, 1, 1]
    inner = [token for ids in windows.ids[1:] for token in ids if token not in (CLS, SEP)]
    assert inner == [7592] * 30


def test_empty_text_has_a_window_of_special_tokens() -> None:
    assert TOKENIZER.windows([""]).lengths().tolist() == [2]


def test_lone_surrogates_are_taken() -> None:
    assert TOKENIZER.windows(["a\ud800"]).ids == TOKENIZER.windows(["a?"]).ids


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=80), st.integers(1, 512), st.sampled_from([1, 8, 16]))
def test_batches_hold_every_window_once_within_the_budget(lengths: list[int], budget: int, multiple: int) -> None:
    found = list(batches(of_lengths(lengths), budget_tokens=budget, multiple=multiple, pad_id=0))
    assert sorted(row for batch in found for row in batch.rows) == list(range(len(lengths)))
    for batch in found:
        assert batch.ids.shape == batch.mask.shape
        assert batch.ids.shape[1] % multiple == 0
        assert batch.ids.size <= budget or len(batch.rows) == 1
        assert batch.mask.sum(axis=1).tolist() == [lengths[row] for row in batch.rows]
        assert (batch.ids[batch.mask == 0] == 0).all()


def test_batches_come_longest_first() -> None:
    found = list(batches(of_lengths([3, 40, 9, 41]), budget_tokens=96, multiple=8, pad_id=0))
    assert [batch.rows.tolist() for batch in found] == [[3, 1], [2, 0]]
