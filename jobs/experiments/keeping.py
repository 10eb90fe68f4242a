"""Tells MLflow of an experiment: runs, variants, aliases, the sequence as it grows, the report at the end. Blocking.

    fathom/ab/{experiment}        one run, and one nested run an arm with its parameters
    fathom-variant-{experiment}   a registered model, a version an arm: `champion` serves, `challenger` is tried

What MLflow has is written down in the control plane after each step, so whatever process comes next goes on there: an
outage loses nothing, and nothing is told twice but a step that was cut off in its middle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jobs.experiments.analysis import Analysis
from jobs.experiments.drawing import sequence_figure
from jobs.experiments.report import flattened, render
from jobs.experiments.reporting import report_of
from jobs.tracking import OFF, Ledger
from services.experiments.spec import Arm, Spec, parse_spec
from services.models import aliased, move_alias, registered_version
from services.settings import Settings
from tenants.experiment_rows import RUNNING, Experiment
from tenants.store import Store

PREFIX = "fathom/ab/"
MODEL = "fathom-variant-"
CHAMPION, CHALLENGER = "champion", "challenger"


class Keeper:
    """One per desk."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._ledger = Ledger(settings)

    def lacks(self, one: Experiment) -> bool:
        """Whether MLflow has not been told of something that does not change by looking again."""
        if self._settings.mlflow_tracking_uri == OFF:
            return False
        told = one.tracked
        ended = one.state != RUNNING and not told.get("ended")
        return ended or "versions" not in told or told.get("serving") != serving_arm(one)

    def keep(self, one: Experiment, seen: Analysis) -> None:
        """Raises `Unavailable` when MLflow does not take the next step; those before it are kept."""
        if self._settings.mlflow_tracking_uri == OFF:
            return
        spec, told = parse_spec(one.spec), dict(one.tracked)
        self._begin(one, spec, told)
        self._grow(one, spec, told, seen)
        self._move(one, spec, told)
        if one.state != RUNNING and not told.get("ended"):
            self._end(one, spec, told, seen)

    def _begin(self, one: Experiment, spec: Spec, told: dict[str, Any]) -> None:
        home = PREFIX + one.name
        if "run" not in told:
            params = {name: value for name, value in one.spec.items() if name not in ("arms", "note")}
            told["run"] = self._ledger.begin(home, one.name, params)
            self._save(one, told)
        told.setdefault("arms", {})
        versions = told.get("versions", {})
        told["model"] = MODEL + one.name
        for arm in spec.arms:
            if arm.name not in told["arms"]:
                told["arms"][arm.name] = self._ledger.begin(home, arm.name, _params(arm), told["run"])
                self._save(one, told)
            if arm.name not in versions:
                run = told["arms"][arm.name]
                versions[arm.name] = self._ledger.variant(home, run, arm.name, _params(arm), told["model"])
                told["versions"] = versions
                self._save(one, told)

    def _grow(self, one: Experiment, spec: Spec, told: dict[str, Any], seen: Analysis) -> None:
        if seen.units <= int(told.get("step", -1)):
            return
        self._ledger.points(told["run"], _points(spec, seen))
        for arm in spec.arms:
            counts = [("exposed", float(seen.exposed[arm.name]), seen.units)]
            self._ledger.points(told["arms"][arm.name], counts)
        series = {arm: effect.series for arm, effect in seen.effects.get(spec.metric, {}).items()}
        if series:
            figure = sequence_figure(series, f"{one.name}: {spec.metric}", spec.minimum_effect, seen.planned)
            self._ledger.keep(told["run"], {}, {"sequence.png": figure})
        told["step"] = seen.units
        self._save(one, told)

    def _move(self, one: Experiment, spec: Spec, told: dict[str, Any]) -> None:
        """`champion` of the experiment's own model, and of every registered model that a promoted arm names."""
        serving = serving_arm(one)
        if told.get("serving") == serving:
            return
        registry, versions = self._settings.registry, told["versions"]
        move_alias(told["model"], CHAMPION, versions[serving], registry)
        if "serving" not in told:
            move_alias(told["model"], CHALLENGER, versions[spec.arms[1].name], registry)
        if serving == spec.control.name:
            for name, before in told.get("moved", {}).items():
                move_alias(name, CHAMPION, before, registry)
        else:
            named = registered_models(spec.arm(serving))
            # Written down before anything moves: a pass that is cut off must not take the new one for the old one.
            told.setdefault("moved", {name: aliased(name, CHAMPION, registry) for name, _ in named})
            self._save(one, told)
            for name, version in named:
                move_alias(name, CHAMPION, version, registry)
        told["serving"] = serving
        if serving == spec.control.name:
            told.pop("moved", None)
        self._save(one, told)

    def _end(self, one: Experiment, spec: Spec, told: dict[str, Any], seen: Analysis) -> None:
        self._ledger.keep(told["run"], {"report.html": render(report_of(one, spec, seen))}, {})
        outcome = one.outcome or {}
        self._ledger.tags(told["run"], {"verdict": seen.verdict.word, "reason": seen.verdict.reason})
        self._ledger.tags(told["run"], {"outcome": str(outcome.get("word", "")), "by": str(outcome.get("by", ""))})
        for run in (*told["arms"].values(), told["run"]):
            self._ledger.end(run)
        told["ended"] = True
        self._save(one, told)

    def _save(self, one: Experiment, told: Mapping[str, Any]) -> None:
        self._store.set_tracked(one.name, told)


def serving_arm(one: Experiment) -> str:
    """The arm that serves everybody: what was promoted and not rolled back, else the control."""
    outcome = one.outcome or {}
    promoted = outcome.get("word") == "promoted"
    return str(outcome["arm"]) if promoted else str(one.spec["arms"][0]["name"])


def registered_models(arm: Arm) -> list[tuple[str, str]]:
    """(name, version) of the registered rerankers that an arm names."""
    asked = arm.overrides.get("rerankers")
    found = [registered_version(str(one)) for one in asked.values()] if isinstance(asked, dict) else []
    return [one for one in found if one is not None]


def _params(arm: Arm) -> dict[str, object]:
    return {"arm": arm.name, "share": arm.share, **flattened(arm.overrides)}


def _points(spec: Spec, seen: Analysis) -> list[tuple[str, float, int]]:
    """The whole sequence of the spec's metric, and every other figure as of now."""
    points = []
    for arm, effect in seen.effects.get(spec.metric, {}).items():
        curve = effect.series
        for name, values in (
            ("relative", curve.relative),
            ("lower", curve.relative_lower),
            ("upper", curve.relative_upper),
        ):
            points += [(f"{spec.metric}.{arm}.{name}", value, at) for at, value in zip(curve.step, values, strict=True)]
    for metric, arms in seen.effects.items():
        for arm, effect in arms.items():
            now = {"difference": effect.difference, "p": effect.p, "mean": effect.mean, "control": effect.control_mean}
            points += [(f"{metric}.{arm}.{name}_now", value, seen.units) for name, value in now.items()]
    for one in seen.means:
        points += [(f"{one.name}.mean", one.mean, seen.units), (f"{one.name}.lower", one.lower, seen.units)]
        points += [(f"{one.name}.upper", one.upper, seen.units)]
    return [point for point in points if math.isfinite(point[1])]
