"""An effect's confidence sequence as a picture: over units, for a terminal and for a tracked run. Pure.

Both draw the relative difference, so metrics of any unit read alike, and the line of no difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jobs.experiments.effects import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Float64 = npt.NDArray[np.float64]

WIDTH, HEIGHT = 72, 15
_LABEL = 8  # columns of the axis
_ZOOM = 4.0  # how many times the last interval's width is shown: the first looks are far wider
_COLOURS = ("#3b6ea5", "#c8553d", "#4c956c", "#8e6c8a", "#b08d3c", "#5b5f97", "#7a7a7a")
NOTHING = "Nothing to draw yet: an arm has too few units, or the control's mean cannot be told from 0."


def terminal(series: Series, width: int = WIDTH, height: int = HEIGHT) -> str:
    """`height` rows and an axis of at most `width` columns: ● the difference, ░ its interval, ┄ no difference.

    Columns are even in units. What lies outside the picture is cut off; rows share one scale in percent.
    """
    step, middle, low, high = _relative(series)
    if not len(step):
        return NOTHING
    columns, rows = max(2, width - _LABEL - 2), max(3, height)
    looks = np.searchsorted(step, np.linspace(step[0], step[-1], columns), side="right") - 1
    bottom, top = _range(middle, low, high)
    scale = (rows - 1) / (top - bottom)
    place = np.stack([np.clip((top - bound) * scale, -1, rows) for bound in (high, middle, low)])[:, looks]
    upper, centre, lower = np.round(place).astype(int)
    zero = round(top * scale)
    table = [["┄" if row == zero else " "] * columns for row in range(rows)]
    for column in range(columns):
        for row in range(max(0, upper[column]), min(rows - 1, lower[column]) + 1):
            table[row][column] = "┄" if row == zero else "░"
        if 0 <= centre[column] < rows:
            table[centre[column]][column] = "●"
    labelled = {0: top, zero: 0.0, rows - 1: bottom}
    lines = [f"{_percent(labelled.get(row)):>{_LABEL}} ┤{''.join(cells)}" for row, cells in enumerate(table)]
    return "\n".join([*lines, _axis(step, columns)])


def sequence_figure(
    series: Mapping[str, Series], title: str, minimum_effect: float | None = None, planned: int | None = None
) -> Figure:
    """One band an arm over units of all arms, in percent of the control's mean; `series` {arm: its Series}.

    Dotted: ± `minimum_effect` and the planned size.
    """
    from matplotlib.figure import Figure  # a second that a terminal's drawing does not need

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    ranges = []
    for number, (arm, one) in enumerate(series.items()):
        step, middle, low, high = _relative(one)
        colour = _COLOURS[number % len(_COLOURS)]
        axes.fill_between(step, 100 * low, 100 * high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(step, 100 * middle, color=colour, label=arm)
        ranges += [_range(middle, low, high)] if len(step) else []
    axes.axhline(0, color="black", linewidth=1)
    for bound in () if minimum_effect is None else (-minimum_effect, minimum_effect):
        axes.axhline(100 * bound, color="black", linewidth=0.8, linestyle=":")
    if planned is not None:
        axes.axvline(planned, color="black", linewidth=0.8, linestyle=":")
    if ranges:
        axes.set_ylim(100 * min(low for low, _ in ranges), 100 * max(high for _, high in ranges))
    axes.set_xlabel("units over all arms")
    axes.set_ylabel("difference, % of the control's mean")
    axes.set_title(title)
    if series:
        axes.legend(loc="upper right")
    return figure


def _relative(series: Series) -> tuple[Float64, Float64, Float64, Float64]:
    """Step, difference, lower, upper (m,) of the looks whose interval is finite."""
    columns = (series.step, series.relative, series.relative_lower, series.relative_upper)
    table = np.array(columns, np.float64)
    step, middle, low, high = table[:, np.isfinite(table).all(axis=0)]
    return step, middle, low, high


def _range(middle: Float64, low: Float64, high: Float64) -> tuple[float, float]:
    """Bottom and top of the picture: the last interval several times over, and always no difference."""
    half = _ZOOM / 2 * max(float(high[-1] - low[-1]), 1e-9)
    return min(0.0, float(middle[-1]) - half), max(0.0, float(middle[-1]) + half)


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:+.1f} %" if value and math.isfinite(value) else "0 %"


def _axis(step: Float64, columns: int) -> str:
    first, last = f"{int(step[0]):,}", f"{int(step[-1]):,} units"
    return f"{'':>{_LABEL}} └{'─' * columns}\n{'':>{_LABEL}}  {first}{last:>{max(1, columns - len(first))}}"
