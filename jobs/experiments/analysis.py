"""One look at an experiment: from its units to effects with intervals, and a verdict. Pure.

An A/B test is effects.py on each metric, against the control; α is halved between the sequence that decides and the one
that guards, which is narrow early. An interleaved one is the rival's mean credit against one half (a betting sequence:
no limit theorem): above it, users prefer the rival's passages. A shadow is the rival's figures less the control's on
the very same questions; nobody saw the rival's, so it decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jobs.experiments.effects import BURN_IN, Effect, effect
from jobs.experiments.observations import CREDIT, Float64, Observations
from jobs.experiments.power import planned_units
from jobs.experiments.ratio import Mismatch, mismatch
from jobs.experiments.sequences import asymptotic, betting, tightest_at
from jobs.experiments.verdict import Verdict, decide
from services.experiments.assignment import shares
from services.experiments.metrics import METRICS
from services.experiments.spec import Spec

MEANS_UNITS = 1_000  # questions that means are tuned for: a ranking is told from another one by few clicks
UNPLANNED = 20_000  # units that widths are tuned for until something is known to plan with
MOST_UNITS = 1_000_000_000
BOUNDED = (CREDIT, "overlap")  # means of values in [0, 1]: their sequence holds at every size, not for many only
MOST_BETS = 20_000  # values that a betting sequence is computed for; of more the other one is as good, and quicker
GUARD_UNITS = 500  # units that guardrails are tuned for, at least
PLAN_AFTER = 200  # units after which the plan is made of what was seen


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean that is compared with `against`, its always-valid interval, and over how many units."""

    name: str
    mean: float
    lower: float
    upper: float
    against: float
    units: int

    def to_json(self) -> dict[str, Any]:
        """Every field; what is not finite is None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Analysis:
    """One look. `effects` {metric: {arm: Effect}} of an A/B test, `means` of the other kinds; the rest says on whom."""

    verdict: Verdict
    units: int
    open_units: int
    exposed: Mapping[str, int]
    questions: Mapping[str, int]
    planned: int
    mismatch: Mismatch
    effects: Mapping[str, Mapping[str, Effect]] = field(default_factory=dict)
    means: Sequence[Mean] = ()
    examples: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What `fathom ab show --json` and `/admin/v1/experiments/{name}` print."""
        return {
            "verdict": self.verdict.to_json(),
            "units": self.units,
            "open_units": self.open_units,
            "planned": self.planned,
            "exposed": dict(self.exposed),
            "questions": dict(self.questions),
            "sample_ratio": {"p": self.mismatch.p, "alarmed": self.mismatch.alarmed},
            "effects": {
                metric: {arm: one.to_json() for arm, one in arms.items()} for metric, arms in self.effects.items()
            },
            "means": [one.to_json() for one in self.means],
        }


def analyse(spec: Spec, seen: Observations) -> Analysis:
    """An A/B test's look. `spec.planned`, once it is known, decides; before, it is made of the first units."""
    share, names = shares(spec), [arm.name for arm in spec.arms]
    planned = spec.planned or plan(spec, seen) or UNPLANNED
    effects: dict[str, dict[str, Effect]] = {}
    for metric in METRICS:
        found = effect(seen.arm, seen.value[metric], seen.covariate[metric], share, spec.alpha / 2, planned)
        effects[metric] = {names[one.treatment]: one for one in found}
    ratio = mismatch(seen.exposed, share)
    return Analysis(
        verdict=decide(spec, effects, ratio, len(seen.arm), planned, _guards(spec, seen, planned)),
        units=len(seen.arm),
        open_units=seen.open_units,
        exposed=dict(zip(names, seen.exposed, strict=True)),
        questions=dict(zip(names, seen.questions, strict=True)),
        planned=planned,
        mismatch=ratio,
        effects=effects,
        examples=seen.examples,
    )


def _guards(spec: Spec, seen: Observations, planned: int) -> dict[str, dict[str, Effect]]:
    """What may not be worse, in sequences that are narrowest early: a broken arm must not wait for the planned size."""
    tuned = guard_units(planned)
    names, found = [arm.name for arm in spec.arms], {}
    for metric in dict.fromkeys((spec.metric, *(rail.metric for rail in spec.guardrails))):
        one = effect(seen.arm, seen.value[metric], seen.covariate[metric], shares(spec), spec.alpha / 2, tuned)
        found[metric] = {names[each.treatment]: each for each in one}
    return found


def guard_units(planned: int) -> int:
    """Units that the guarding sequences are narrowest at."""
    return min(planned, max(GUARD_UNITS, planned // 20))


def plan(spec: Spec, seen: Observations) -> int | None:
    """Units over all arms for `minimum_effect`, from the first PLAN_AFTER units of all arms; None before, or at mean 0.

    All arms together, so that planning does not look at the difference.
    """
    first = seen.value[spec.metric][:PLAN_AFTER]
    return None if len(first) < PLAN_AFTER or float(first.mean()) == 0 else planned_for(spec, first)


def planned_for(spec: Spec, values: Float64) -> int:
    """Units over all arms that find `minimum_effect` with `power`; `values` (n,) of units of today, mean not 0."""
    mean, deviation, parts = float(values.mean()), float(values.std(ddof=1)), shares(spec).tolist()
    units = planned_units(mean, deviation, spec.minimum_effect, spec.alpha / 2, spec.power, parts)
    return min(MOST_UNITS, units)


def compare_means(spec: Spec, means: Sequence[tuple[str, Float64, float]], decisive: str | None) -> Analysis:
    """A look at an interleaved or shadowed experiment: (name, (n,) values, what the mean is compared with).

    `decisive` is the mean that decides (higher is better for the rival); None = nothing does, it is watched.
    """
    planned = spec.planned or MEANS_UNITS
    found = [_mean(name, values, against, spec.alpha, planned) for name, values, against in means]
    rival, units = spec.arms[1].name, max((one.units for one in found), default=0)
    word, arm, reason = "collecting", None, "Nothing is certain yet"
    if decisive is None:
        reason = "A shadow decides nothing: nobody saw the other arm's passages"
    for one in found:
        if one.name == decisive and one.lower > one.against:
            word, arm, reason = (
                "better",
                rival,
                f"Users prefer {rival}: its {one.name} is {one.mean:.3f}",
            )
        elif one.name == decisive and one.upper < one.against:
            word, arm, reason = "worse", rival, f"Users prefer the control: {rival}'s {one.name} is {one.mean:.3f}"
    verdict = Verdict(word, arm, f"{reason} ({units:,} units).", False, (), ())  # type: ignore[arg-type]
    names = {one.name: units for one in spec.arms}
    return Analysis(verdict, units, 0, names, names, planned, mismatch((0, 0), shares(spec)), means=found)


def _mean(name: str, values: Float64, against: float, alpha: float, planned: int) -> Mean:
    if len(values) < BURN_IN:
        mean = float(values.mean()) if len(values) else math.nan
        return Mean(name, mean, -math.inf, math.inf, against, len(values))
    if name in BOUNDED and len(values) <= MOST_BETS:
        lower, upper = betting(values, alpha)
    else:
        lower, upper = asymptotic(values, alpha, tightest_at(planned, alpha))
    return Mean(name, float(np.mean(values)), float(lower[-1]), float(upper[-1]), against, len(values))
