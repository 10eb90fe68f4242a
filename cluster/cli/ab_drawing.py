"""How `fathom ab show` looks in a terminal: verdict, a line a metric, the sequence. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.experiments.drawing import terminal
from jobs.experiments.effects import Series


def lines_of(shown: Mapping[str, Any]) -> list[str]:
    """What a person reads of `Desk.show`."""
    spec, seen = shown["spec"], shown["analysis"]
    outcome = shown["outcome"] or {}
    state = shown["state"] + (f" ({outcome['word']} by {outcome['by']})" if outcome.get("by") else "")
    head = [
        f"{shown['name']}: {spec['kind']} on {' '.join(shown['tenants'])}, {state}",
        f"{seen['verdict']['word']}: {seen['verdict']['reason']}",
        *_counts(seen),
    ]
    return [*head, "", *_effects(seen), *_means(seen), *_drawing(spec, seen)]


def _counts(seen: Mapping[str, Any]) -> Iterator[str]:
    arms = ", ".join(f"{arm} {count:,}" for arm, count in seen["exposed"].items())
    yield f"{seen['units']:,} units closed, {seen['open_units']:,} open, {seen['planned']:,} planned; exposed: {arms}"
    if seen["sample_ratio"]["alarmed"]:
        yield f"SAMPLE RATIO MISMATCH (p {seen['sample_ratio']['p']:.2g}): no figure below means anything"


def _effects(seen: Mapping[str, Any]) -> Iterator[str]:
    if not seen["effects"]:
        return
    yield f"{'metric':<12} {'arm':<16} {'control':>10} {'arm':>10} {'relative':>9}  interval             p"
    for metric, arms in seen["effects"].items():
        for arm, one in arms.items():
            interval = f"{_percent(one['relative_lower'])} … {_percent(one['relative_upper'])}"
            figures = f"{_number(one['control_mean'])} {_number(one['mean'])} {_percent(one['relative']):>9}"
            yield f"{metric:<12} {arm:<16} {figures}  {interval:<20} {one['p']:.3g}"


def _means(seen: Mapping[str, Any]) -> Iterator[str]:
    for one in seen["means"]:
        interval = f"{_number(one['lower'])} … {_number(one['upper'])}"
        yield f"{one['name']:<12} {_number(one['mean'])}  {interval} against {one['against']:g}, {one['units']:,} units"


def _drawing(spec: Mapping[str, Any], seen: Mapping[str, Any]) -> Iterator[str]:
    for arm, one in seen["effects"].get(spec["metric"], {}).items():
        if one["series"]["step"]:
            yield from ("", f"{spec['metric']} of {arm}, relative to the control, over units")
            yield terminal(_series(one["series"]))


def _series(told: Mapping[str, Any]) -> Series:
    curves = {
        name: tuple(float("nan") if value is None else float(value) for value in values)
        for name, values in told.items()
        if name != "step"
    }
    return Series(step=tuple(int(step) for step in told["step"]), **curves)


def _number(value: float | None) -> str:
    return f"{'–' if value is None else format(value, '.4g'):>10}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1%}"
