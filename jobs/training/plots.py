"""Plots of a training run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure


def curve_figure(curve: Sequence[tuple[int, float, float, float]]) -> Figure:
    """Loss and learning rate over steps; points are (step, seconds, loss, rate)."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    left = figure.subplots()
    steps = [point[0] for point in curve]
    left.plot(steps, [point[2] for point in curve], color="#3b6ea5")
    left.set(xlabel="step", ylabel="loss", title="Training")
    right = left.twinx()
    right.plot(steps, [point[3] for point in curve], color="#c17f2b", linewidth=1)
    right.set_ylabel("learning rate")
    return figure


def dev_figure(dev: Mapping[str, Mapping[float, float]]) -> Figure:
    """nDCG@10 by the blend's weight, one line a set; the left end is the first stage."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, figures in dev.items():
        axes.plot(list(figures), list(figures.values()), marker="o", markersize=3, label=name)
    axes.set(xlabel="weight of σ(logit)", ylabel="nDCG@10", title="Dev questions")
    if dev:
        axes.legend()
    return figure
