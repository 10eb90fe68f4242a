"""An experiment's report: the lines of report.py out of its spec, its last look and its outcome. Pure.

Questions are named by their ids only: a tenant's text is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from jobs.experiments.analysis import Analysis
from jobs.experiments.drawing import sequence_figure
from jobs.experiments.effects import Effect
from jobs.experiments.report import ArmLine, Change, Example, MetricLine, Plot, Report, flattened
from services.experiments.metrics import METRICS
from services.experiments.spec import Spec
from tenants.experiment_rows import Experiment

COSTS = ("answer_ms", "rerank_ms", "pairs", "tokens")


def report_of(one: Experiment, spec: Spec, seen: Analysis, at: datetime | None = None) -> Report:
    """Everything that `render` needs."""
    rails = {rail.metric for rail in spec.guardrails}
    lines = list(_lines(spec, seen))
    return Report(
        title=one.name,
        kind={"ab": "A/B test", "interleaving": "Interleaved rankings", "shadow": "Shadow"}[spec.kind],
        generated_at=at or datetime.now(UTC),
        verdict=str((one.outcome or {}).get("word") or seen.verdict.word),
        reason=seen.verdict.reason,
        arms=tuple(_arm_line(spec, seen, place) for place in range(len(spec.arms))),
        tenants=one.uids,
        facts=tuple((name, str(value)) for name, value in _facts(one, spec, seen).items()),
        metrics=tuple(line for line in lines if line.name not in COSTS) + tuple(_means(spec, seen)),
        guardrails=tuple(line for line in lines if line.name in rails),
        costs=tuple(line for line in lines if line.name in COSTS),
        plots=tuple(_plots(spec, seen)),
        examples=tuple(_examples(spec, seen)),
        notes=(spec.note,) if spec.note else (),
    )


def _arm_line(spec: Spec, seen: Analysis, place: int) -> ArmLine:
    arm = spec.arms[place]
    changes = tuple(Change(key, "", value) for key, value in flattened(arm.overrides).items())
    total = sum(each.share for each in spec.arms)
    return ArmLine(arm.name, changes, arm.share / total, seen.exposed.get(arm.name))


def _facts(one: Experiment, spec: Spec, seen: Analysis) -> dict[str, Any]:
    ended = "" if one.stopped_at is None else one.stopped_at.isoformat(timespec="seconds")
    return {
        "started": one.created_at.isoformat(timespec="seconds"),
        "ended": ended,
        "unit": spec.unit,
        "window": f"{spec.window_s:g} s",
        "units": f"{seen.units:,} of {seen.planned:,} planned, {seen.open_units:,} still open",
        "ramp": f"{one.ramp:.0%}, holdout {spec.holdout:.0%}",
        "decides": f"{spec.metric}, α {spec.alpha:g} at any look",
        "sample ratio": "mismatch" if seen.mismatch.alarmed else f"as assigned (p {seen.mismatch.p:.2g})",
    }


def _lines(spec: Spec, seen: Analysis) -> Iterator[MetricLine]:
    violated = {(one.metric, one.arm): one.violated for one in seen.verdict.evidence}
    for metric, arms in seen.effects.items():
        for arm, effect in arms.items():
            state = {True: "broken", False: "held", None: ""}[violated.get((metric, arm))]
            yield _line(metric, arm, effect, "claimed" if not state and effect.p <= effect.alpha else state)


def _line(metric: str, arm: str, effect: Effect, state: str) -> MetricLine:
    told = effect.to_json()
    return MetricLine(
        name=metric,
        arm=arm,
        control=told["control_mean"],
        value=told["mean"],
        effect=told["difference"],
        lower=told["lower"],
        upper=told["upper"],
        p=told["p"],
        n=effect.units + effect.control_units,
        better=METRICS[metric].better,
        state=state,
    )


def _means(spec: Spec, seen: Analysis) -> Iterator[MetricLine]:
    for one in seen.means:
        told = one.to_json()
        yield MetricLine(
            one.name, spec.arms[1].name, one.against, told["mean"], None, told["lower"], told["upper"], n=one.units
        )


def _examples(spec: Spec, seen: Analysis) -> Iterator[Example]:
    """Units that did best in their arm; a value stands on its arm's side."""
    for arm, rows in seen.examples.items():
        ours = arm == spec.control.name
        for query, value in rows:
            yield Example(query, value if ours else None, None if ours else value)


def _plots(spec: Spec, seen: Analysis) -> Iterator[Plot]:
    series = {arm: effect.series for arm, effect in seen.effects.get(spec.metric, {}).items()}
    if any(each.step for each in series.values()):
        figure = sequence_figure(series, spec.metric, spec.minimum_effect, seen.planned)
        yield Plot(spec.metric, figure, seen.verdict.reason)
