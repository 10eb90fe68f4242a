"""Markers and citations are one to one and every quote is verbatim, whatever the texts hold."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts import Passage, Span
from services.evidence.citations import Pick, compose
from services.evidence.sentences import split
from tests import fakes

MARKER = re.compile(r"\[(\d+)\]")
hostile = st.text(alphabet=st.sampled_from("ab [](){}0123,.!?\n`#|-。あ\\"), max_size=120) | st.text(max_size=120)


def passage_at(number: int, text: str, start: int) -> Passage:
    return fakes.passage(number, text, span=Span(start, start + len(text), page=number))


@given(st.lists(st.tuples(hostile, st.integers(0, 1_000)), min_size=1, max_size=4))
def test_quotes_are_verbatim_and_markers_match_citations(texts: list[tuple[str, int]]) -> None:
    passages = [passage_at(number, text, start) for number, (text, start) in enumerate(texts)]
    picks = [
        Pick(place, unit.start, unit.end, unit.kind)
        for place, passage in enumerate(passages)
        for unit in split(passage.text)
    ]
    parts = compose(passages, picks)
    answer = "".join(part.text for part in parts)
    assert [int(mark) for mark in MARKER.findall(answer)] == list(range(1, len(picks) + 1))
    for part, pick in zip(parts, picks, strict=True):
        (cite,), passage = part.citations, passages[pick.place]
        start = passage.span.char_start
        assert cite.quote == passage.text[cite.char_start - start : cite.char_end - start]
        assert answer[cite.answer_start : cite.answer_end].replace("\u2060", "") == cite.quote.replace("\u2060", "")
        assert cite.chunk_id == passage.chunk_id
        assert cite.page == passage.span.page


def test_prose_items_and_code_stay_readable() -> None:
    passages = [fakes.passage(1, "A is b. - one - two x = 1")]
    picks = [Pick(0, 0, 7, "sentence"), Pick(0, 10, 13, "item"), Pick(0, 16, 19, "item"), Pick(0, 20, 25, "code")]
    text = "".join(part.text for part in compose(passages, picks))
    assert text == "A is b. [1]\n- one [2]\n- two [3]\n\n```\nx = 1\n```\n[4]"


def test_a_bracketed_number_in_a_text_is_no_marker() -> None:
    (part,) = compose([fakes.passage(1, "take x[0] and [1, 2]")], [Pick(0, 0, 20, "sentence")])
    assert MARKER.findall(part.text) == ["1"]
    assert part.citations[0].quote == "take x[0] and [1, 2]"


@pytest.mark.timeout(5)
def test_a_bracket_that_never_closes_takes_linear_time() -> None:
    text = "[" + "1 " * 50_000
    (part,) = compose([fakes.passage(0, text)], [Pick(0, 0, len(text), "sentence")])
    assert part.citations[0].quote == text
