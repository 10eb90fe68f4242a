"""One HTML file that tells an experiment or a comparison to who was not there: offline, without a script, escaped.

`render` knows no statistics: whoever compared hands in lines that are finished. Text of a tenant's questions is in
it only where the caller puts it (`Example.text`); a tenant's instructions appear as their version. The page loads
nothing from anywhere and forbids itself to (Content-Security-Policy), and follows the reader's light or dark.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from services.generation.prompt import version_of
from tenants.config import TenantConfig

TEMPLATE = Path(__file__).with_name("report.html.j2")
NOTHING = "–"  # where a figure cannot be said
_INK, _PAPER = "#000000", "#ffffff"  # what matplotlib draws with; the page's own colours stand in for them
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True, slots=True)
class Change:
    """One key of a configuration, such as `rerank.price`, and its values; `before` "" = each tenant's own."""

    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One variant. `share` of the traffic and `units` that were counted, None where there is no such thing."""

    name: str
    changes: tuple[Change, ...] = ()
    share: float | None = None
    units: int | None = None


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One measure of one arm against the control, in the measure's own unit; None = cannot be said.

    `effect` = value − control with its interval; `unit` says when the three are something else, such as `%` of the
    control. `n` questions or units; `state` is a word about it: `held`, `broken`, `claimed`.
    """

    name: str
    arm: str
    control: float | None
    value: float | None
    effect: float | None
    lower: float | None
    upper: float | None
    p: float | None = None
    n: int | None = None
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """`caption` says in words what is to be seen; whoever cannot see it hears that."""

    title: str
    figure: Figure
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A question where the arms differ: its id, both values of the first metric, its text where that may be told."""

    query: str
    control: float | None
    value: float | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything of one page. The first arm is the control; `facts` are (what, value): digests, counts, versions."""

    title: str
    kind: str
    generated_at: datetime
    verdict: str
    reason: str
    arms: tuple[ArmLine, ...]
    tenants: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = ()
    metrics: tuple[MetricLine, ...] = ()
    guardrails: tuple[MetricLine, ...] = ()
    costs: tuple[MetricLine, ...] = ()
    plots: tuple[Plot, ...] = ()
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()


def render(report: Report) -> str:
    """The page. Every string of the report is text, never markup."""
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"number": number, "signed": signed, "p": p_value}
    drawn = [(plot, svg(plot.figure, f"plot-{place}")) for place, plot in enumerate(report.plots)]
    return page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(report=report, plots=drawn, nothing=NOTHING)


def svg(figure: Figure, salt: str) -> Markup:
    """The figure as an inline element in the page's colours; `salt` keeps its ids apart from other figures'.

    Markup, because matplotlib wrote it: labels are escaped there.
    """
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    drawn = file.getvalue()
    element = drawn[drawn.index("<svg") :].replace(_INK, "currentColor").replace(_PAPER, "var(--paper)")
    return Markup(element)  # noqa: S704 - matplotlib's own, see above


def flattened(overrides: Mapping[str, Any]) -> dict[str, str]:
    """`section.key` → its value as text; instructions, a tenant's own words, as their version."""
    told: dict[str, str] = {}
    for name, value in overrides.items():
        if not isinstance(value, Mapping):
            told[name] = _said(value)
            continue
        told |= {f"{name}.{key}": _said(one) for key, one in value.items()}
    if "answer.instructions" in told:
        told["answer.instructions"] = version_of(str(overrides["answer"]["instructions"] or ""))
    return told


def changes_between(before: TenantConfig, after: TenantConfig) -> tuple[Change, ...]:
    """What parts two configurations, key by key."""
    old, new = flattened(before.model_dump(mode="json")), flattened(after.model_dump(mode="json"))
    keys = [key for key in (*old, *(new.keys() - old.keys())) if old.get(key) != new.get(key)]
    return tuple(Change(key, old.get(key, NOTHING), new.get(key, NOTHING)) for key in keys)


def changes_of(overrides: Mapping[str, Any]) -> tuple[Change, ...]:
    """The same of overrides that many tenants' configurations lie below."""
    return tuple(Change(key, "", value) for key, value in flattened(overrides).items())


def number(value: float | None) -> str:
    """Four decimals below 1, fewer above: `0.4123`, `12.35`, `312`, `0`; NOTHING for what is unknown or not finite."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    digits = 4 if abs(value) < 1 else 2 if abs(value) < 100 else 0
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: no sign before a zero


def signed(value: float | None) -> str:
    """`number` with its sign in front: `+0.0310`, `−1.20`."""
    text = number(value)
    return text if not value or text == NOTHING or text.startswith("−") else f"+{text}"


def interval(lower: float | None, upper: float | None) -> str:
    """`−0.0100 … +0.0250`."""
    return f"{signed(lower)} … {signed(upper)}"


def p_value(p: float | None) -> str:
    """Three decimals: `0.034`, `< 0.001`."""
    if p is None or not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
