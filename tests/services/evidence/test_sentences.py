"""Sentence spans: cases written out, and what must hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evidence.sentences import split

CASES = {
    "Dr. Smith met J. R. Tolkien at 3.5 km. He left.": ["Dr. Smith met J. R. Tolkien at 3.5 km.", "He left."],
    "It was in the U.S. He left.": ["It was in the U.S.", "He left."],
    'He said "No." She left! Why? Because.': ['He said "No."', "She left!", "Why?", "Because."],
    "See e.g. Fig. 3 and vol. 2. Then stop.": ["See e.g. Fig. 3 and vol. 2.", "Then stop."],
    "It rains.[12][3] It pours.": ["It rains.", "It pours."],
    "戦後日本の漫画家である。1947年、出版した。": ["戦後日本の漫画家である。", "1947年、出版した。"],
    "他来了！她走了？是。": ["他来了！", "她走了？", "是。"],
    "# Title\n\nSome text\nwrapped. More.\n\n- one. Two.\n- three\n  four\n": [
        "Title",
        "Some text\nwrapped.",
        "More.",
        "one.",
        "Two.",
        "three\n  four",
    ],
    "Before.\n\n```python\nx = a[1]\n\ny = 2. Z\n```\nAfter.": ["Before.", "x = a[1]\n\ny = 2. Z", "After."],
    "| a | b |\n|---|---|\n| 1 | 2 |\n": ["| a | b |", "| 1 | 2 |"],
    "Key Points\n- ALL is a cancer. - Leukemia spreads.": ["Key Points", "ALL is a cancer.", "Leukemia spreads."],
    'def f(x):\n    """Return the f of x.\n\n    It adds one. It is quick.\n    """\n    return x\n': [
        'def f(x):\n    """Return the f of x.',
        "It adds one.",
        "It is quick.",
        "    return x",
    ],
    "": [],
    "---\n***\n": [],
}


@pytest.mark.parametrize("text", CASES)
def test_sentences_are_the_expected_spans(text: str) -> None:
    assert [text[unit.start : unit.end] for unit in split(text)] == CASES[text]


def test_code_is_never_cut_inside_a_line() -> None:
    text = "def area(r):\n    pi = 3.14. __class__\n    return pi * r ** 2\n"
    assert [unit.kind for unit in split(text)] == ["code"]


@given(st.text(alphabet=st.sampled_from("aB1.!?。 \n\t-*#|`>[]()\"'\u2028\r"), max_size=200))
def test_spans_are_ordered_disjoint_and_tight(text: str) -> None:
    end = 0
    for unit in split(text):
        assert end <= unit.start < unit.end <= len(text)
        assert any(char.isalnum() for char in text[unit.start : unit.end])
        assert text[unit.end - 1].strip() or unit.kind == "code"
        end = unit.end


@given(st.text(max_size=300))
def test_any_text_is_split(text: str) -> None:
    units = split(text)
    assert all(0 <= unit.start < unit.end <= len(text) for unit in units)


HOSTILE = {
    "dots": "." * 100_000 + "x",
    "one word": "a" * 100_000 + ". B",
    "a sentence without spaces": ("a" * 50 + ".b") * 2_000,
    "abbreviations in one sentence": ". ".join(["a" * 40] * 2_500) + ". b",
    "pipes": "|" * 100_000 + "x",
    "spaced pipes": " |" * 50_000 + "x",
    "dashes": "- " * 50_000 + "x",
    "references before a word": "[1]" * 33_000 + "x",
    "references": "a" + " [1]" * 25_000,
    "white space": "a" + " " * 100_000 + "b. C",
    "brackets": "[" + "1 " * 50_000,
    "quotes after a stop": "a." + ")" * 100_000 + "x",
    "colons": "if " + ": " * 50_000 + "x",
    "empty rows": "|\n" * 50_000,
}


@pytest.mark.timeout(5)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_takes_more_than_linear_time(name: str) -> None:
    text = HOSTILE[name]
    units = split(text)
    assert all(unit.end <= len(text) for unit in units)


def test_only_trailing_reference_marks_are_left_out() -> None:
    text = "See x[0] and [1] first [2] [note 34]\t[b]"
    (unit,) = split(text)
    assert text[unit.start : unit.end] == "See x[0] and [1] first"
