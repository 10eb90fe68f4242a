"""What a generator may write, and what is read out of it however it is cut into pieces."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from services.generation.grammar import LineReader, parse, pattern

ANSWER = "Pumps move water [1].\nThey run on oil [2][1]\nNONE of this\nA lie [7]\n[1]\nno marker\nlast one [1]"


def lines(pieces: list[str], shown: int = 2) -> list[tuple[str, tuple[int, ...]]]:
    reader = LineReader(shown)
    found = [line for piece in pieces for line in reader.feed(piece)] + list(reader.rest())
    return [(line.text, line.markers) for line in found]


def test_only_lines_with_shown_markers_are_read() -> None:
    assert lines([ANSWER]) == [
        ("Pumps move water", (1,)),
        ("They run on oil", (2, 1)),
        ("last one", (1,)),
    ]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=80))
def test_how_the_text_is_cut_does_not_matter(sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(ANSWER[at : at + size])
        at += size
    assert lines([*pieces, ANSWER[at:]]) == lines([ANSWER])


def test_the_model_may_say_that_nothing_answers() -> None:
    reader = LineReader(3)
    assert list(reader.feed("NONE")) == []
    assert list(reader.rest()) == []
    assert reader.declined
    assert reader.malformed == 0


@given(st.from_regex(re.compile(pattern(3), re.ASCII), fullmatch=True))
def test_whatever_the_grammar_lets_through_is_read_whole(text: str) -> None:
    reader = LineReader(3)
    found = [*reader.feed(text), *reader.rest()]
    assert all(set(line.markers) <= {1, 2, 3} for line in found)
    assert len(found) == text.count("\n")
    assert reader.malformed == 0


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    for line in LineReader(2).feed(text + "\n"):
        assert line.text
        assert set(line.markers) <= {1, 2}


def test_a_line_without_end_is_no_sentence() -> None:
    assert parse("x" * 5_000 + " [1]", 1) is None
