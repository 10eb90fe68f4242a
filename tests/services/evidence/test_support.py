"""When a passage says what a sentence says, and which of its text is quoted for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evidence.support import numbers_of, support

TEXT = (
    "The reactor was shut down in 1986. Its two cooling pumps moved 1,200 litres a second. "
    "Engineers did not restart the second pump. The site is closed to visitors."
)


@pytest.mark.parametrize(
    ("sentence", "quote"),
    [
        ("The reactor was shut down in 1986.", "The reactor was shut down in 1986."),
        ("In 1986, the reactor was shut down", "The reactor was shut down in 1986."),
        ("The cooling pumps moved 1200 litres per second.", "Its two cooling pumps moved 1,200 litres a second."),
        ("The second pump was not restarted by engineers.", "Engineers did not restart the second pump."),
        (
            "The reactor was shut down in 1986, and its cooling pumps moved 1,200 litres.",
            "The reactor was shut down in 1986. Its two cooling pumps moved 1,200 litres a second.",
        ),
    ],
)
def test_what_the_passage_says_is_found_and_quoted(sentence: str, quote: str) -> None:
    found = support(sentence, TEXT)
    assert found is not None
    assert found.holds
    assert TEXT[found.start : found.end] == quote


@pytest.mark.parametrize(
    "sentence",
    [
        "The reactor was shut down in 1987.",  # another number
        "The cooling pumps moved 12,000 litres a second.",
        "The reactor was not shut down in 1986.",  # the contrary
        "Engineers did restart the second pump.",
        "The mayor opened a museum beside the lake.",  # something else
        "The reactor was shut down in 1986 because investors demanded larger dividends.",  # more than it says
    ],
)
def test_what_it_does_not_say_has_no_support(sentence: str) -> None:
    found = support(sentence, TEXT)
    assert found is None or not found.holds


def test_numbers_have_one_spelling() -> None:
    assert numbers_of("1,200 and 3.50 and twelve and v2.1.4") >= {"1200", "3.5", "12"}
    assert numbers_of("one of them") == frozenset()


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_quote_lies_within_its_passage(sentence: str, text: str) -> None:
    found = support(sentence, text)
    if found is not None:
        assert 0 <= found.start < found.end <= len(text)
        assert 0 < found.recall <= 1


@pytest.mark.timeout(20)
def test_a_huge_passage_takes_no_ages() -> None:
    found = support("The reactor was shut down in 1986.", "A pump is here. " * 5_000 + TEXT)
    assert found is not None
    assert found.holds
