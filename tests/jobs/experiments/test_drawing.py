"""Drawings: their size, the marks that must be there, and what an empty series gives."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.experiments.drawing import NOTHING, sequence_figure, terminal
from jobs.experiments.effects import Series


def series(middle: float = 0.03, looks: int = 50, half: float = 0.2) -> Series:
    """An interval that narrows like 1 / sqrt(t) about one difference."""
    step = np.linspace(100, 10_000, looks).astype(int)
    halves = half * np.sqrt(100 / step)
    steady, low, high = (tuple(v.tolist()) for v in (np.full(looks, middle), middle - halves, middle + halves))
    return Series(tuple(step.tolist()), steady, low, high, low, high, steady, low, high)


def test_a_small_picture_by_hand() -> None:
    # One look at +5 %, between 0 and +10 %: the picture runs from −15 % to +25 %, a row is 5 %.
    one = series(0.05, 1, 0.05)
    rows = terminal(one, width=14, height=9).splitlines()
    assert rows[:9] == [
        " +25.0 % ┤    ",
        "         ┤    ",
        "         ┤    ",
        "         ┤░░░░",
        "         ┤●●●●",
        "     0 % ┤┄┄┄┄",
        "         ┤    ",
        "         ┤    ",
        " -15.0 % ┤    ",
    ]
    assert rows[9] == "         └────"


@given(st.floats(-0.5, 0.5), st.integers(1, 200), st.integers(20, 120), st.integers(5, 40))
def test_every_row_fits_and_zero_is_always_there(middle: float, looks: int, width: int, height: int) -> None:
    lines = terminal(series(middle, looks), width, height).splitlines()
    assert len(lines) == height + 2
    assert all(len(line) <= width for line in lines[:-1])
    assert any(line.startswith("     0 %") or "┄" in line or "●" in line for line in lines[:height])


def test_an_empty_or_unbounded_series_says_so() -> None:
    assert terminal(Series()) == NOTHING
    wide = (math.inf,)
    unbounded = replace(series(looks=1), relative_lower=(-math.inf,), relative_upper=wide)
    assert terminal(unbounded) == NOTHING


def test_the_figure_has_a_band_an_arm_and_its_lines() -> None:
    figure = sequence_figure({"b": series(), "c": series(-0.01), "d": Series()}, "e: clicked", 0.03, 10_000)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["b", "c", "d"]
    assert len(axes.collections) == 3
    low, high = axes.get_ylim()
    assert low < 0 < high
    stored = io.BytesIO()
    figure.savefig(stored, format="png")
    assert stored.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("arms", [{}, {"b": Series()}])
def test_a_figure_of_nothing_is_still_a_figure(arms: dict[str, Series]) -> None:
    assert sequence_figure(arms, "nothing").axes
