"""What an experiment's figures allow to say, and whether it must stop. Pure: (facts) → decision with its evidence.

In this order; the first that holds is the word:

    mismatch       units are lost in one arm more than in another: no other figure means anything. Stops.
    harmful        an arm is certain to be worse than a guardrail allows. Stops.
    better         an arm's primary metric is certain to be better
    worse          an arm's primary metric is certain to be worse, but the planned size is not reached and the loss
                   not certain to exceed `minimum_effect`
    no_difference  every arm's whole interval lies within ± `minimum_effect`
    inconclusive   the planned size is reached and nothing of the above holds
    collecting     everything else

An arm is worse than a guardrail allows when the metric's loss is certain to exceed `tolerance` · |the control's mean|.
The primary metric guards itself: its loss may not be certain to exceed `minimum_effect`, and once the planned size is
reached it may not be certain at all.

"Certain" is the confidence sequence of this look, so each claim about a metric is wrong with probability ≤ α however
often this is asked; α is shared among the treatments. Each guardrail is a question of its own with an α of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jobs.experiments.effects import Effect
from jobs.experiments.ratio import Mismatch
from services.experiments.metrics import METRICS
from services.experiments.spec import Spec

Word = Literal["collecting", "better", "worse", "no_difference", "inconclusive", "harmful", "mismatch"]
Effects = Mapping[str, Mapping[str, Effect]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One arm by one guardrail. `loss` is relative to |the control's mean|, above 0 = worse, whatever the direction.

    It lies between `lower` and `upper`; `violated` when it is certain to exceed `tolerance`.
    """

    metric: str
    arm: str
    tolerance: float
    loss: float
    lower: float
    upper: float
    violated: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """See the module. `reason` is one sentence with the figures; `stops`: the experiment is to be stopped now.

    `arm` is the arm that the word speaks of, None when it speaks of all; `harmful` are all arms that harm.
    """

    word: Word
    arm: str | None
    reason: str
    stops: bool
    harmful: tuple[str, ...]
    evidence: tuple[Evidence, ...]

    def to_json(self) -> dict[str, Any]:
        """Every field by name; what is not finite is None."""
        evidence = [
            {name: None if isinstance(item, float) and not math.isfinite(item) else item for name, item in row.items()}
            for row in map(asdict, self.evidence)
        ]
        return {**asdict(self), "harmful": list(self.harmful), "evidence": evidence}


def decide(
    spec: Spec, effects: Effects, mismatch: Mismatch, units: int, planned: int, guards: Effects | None = None
) -> Verdict:
    """The verdict of this look.

    effects    {metric: {arm: its Effect}}, without the control; what is missing is no evidence
    guards     the same, tuned for fewer units: great harm shows long before the planned size; None = `effects`
    units      over all arms, of those that have closed
    planned    units over all arms to decide by

    Raises `ValueError` when an effect was measured at a larger α than its part of the spec's.
    """
    guards = effects if guards is None else guards
    _check(spec, effects)
    _check(spec, guards)
    reached = units >= planned
    evidence = tuple(_evidence(spec, guards, reached))
    if reached:  # the sequence that decides is the narrower one by now
        evidence += tuple(_evidence(spec, {spec.metric: effects.get(spec.metric, {})}, reached))
    harmful = tuple(dict.fromkeys(one.arm for one in evidence if one.violated))
    word, arm, reason = _word(spec, effects.get(spec.metric, {}), evidence, mismatch, reached)
    progress = f"{units:,} of {planned:,} planned units"
    return Verdict(word, arm, f"{reason} ({progress}).", word in ("harmful", "mismatch"), harmful, evidence)


def _word(
    spec: Spec, primary: Mapping[str, Effect], evidence: tuple[Evidence, ...], mismatch: Mismatch, reached: bool
) -> tuple[Word, str | None, str]:
    if mismatch.alarmed:
        return "mismatch", None, _mismatch(mismatch)
    violated = [one for one in evidence if one.violated]
    if violated:
        first = violated[0]
        return "harmful", first.arm, _harm(first)
    gains = {arm: _gain(spec.metric, one) for arm, one in primary.items()}
    best = max(gains, key=lambda arm: gains[arm][0], default=None)
    if best is not None and gains[best][0] > 0:
        return "better", best, f"{best} is better: {_figures(spec.metric, primary[best])}"
    worst = min(gains, key=lambda arm: gains[arm][1], default=None)
    if worst is not None and gains[worst][1] < 0:
        return "worse", worst, f"{worst} is worse: {_figures(spec.metric, primary[worst])}"
    return _open(spec, primary, reached)


def _open(spec: Spec, primary: Mapping[str, Effect], reached: bool) -> tuple[Word, str | None, str]:
    """What remains when no arm is certain to differ."""
    bound = spec.minimum_effect
    treatments = [arm.name for arm in spec.arms[1:]]
    arm = treatments[0] if len(treatments) == 1 else None
    shown = "; ".join(f"{name}: {_figures(spec.metric, one)}" for name, one in primary.items())
    shown = shown or f"no figure of {spec.metric} yet"
    if all(_within(primary.get(name), bound) for name in treatments):
        return "no_difference", arm, f"No arm differs from the control by {bound:.1%} or more: {shown}"
    if reached:
        return "inconclusive", None, f"Neither a difference nor its absence is certain: {shown}"
    return "collecting", None, f"Nothing is certain yet: {shown}"


def _evidence(spec: Spec, effects: Effects, reached: bool) -> Iterator[Evidence]:
    """The primary metric's rows first, then the guardrails' in the spec's order."""
    rails = [(spec.metric, 0.0 if reached else spec.minimum_effect)]
    rails += [(rail.metric, rail.tolerance) for rail in spec.guardrails]
    for metric, tolerance in dict.fromkeys(rails):
        measured = effects.get(metric, {})
        for arm in spec.arms[1:]:
            if (one := measured.get(arm.name)) is not None:
                yield _judged(metric, arm.name, tolerance, one)


def _judged(metric: str, arm: str, tolerance: float, one: Effect) -> Evidence:
    """Fieller's interval decides; where it is infinite, the difference against the largest |control's mean|.

    The second claims no more than the sequence over ψ − tolerance · φ: the deviation of a sum is at most their sum.
    """
    sign = METRICS[metric].sign
    bounds = sorted((-sign * one.relative_lower, -sign * one.relative_upper))
    allowed = tolerance * max(abs(one.control_lower), abs(one.control_upper)) if tolerance else 0.0
    violated = bounds[0] > tolerance or -_gain(metric, one)[1] > allowed
    return Evidence(metric, arm, tolerance, -sign * one.relative, bounds[0], bounds[1], violated)


def _gain(metric: str, one: Effect) -> tuple[float, float]:
    """The least and the most that the arm gains, in the metric's unit."""
    if METRICS[metric].sign > 0:
        return one.lower, one.upper
    return -one.upper, -one.lower


def _within(one: Effect | None, bound: float) -> bool:
    return one is not None and -bound < one.relative_lower and one.relative_upper < bound


def _check(spec: Spec, effects: Effects) -> None:
    part = spec.alpha / (len(spec.arms) - 1)
    for metric, arms in effects.items():
        for arm, one in arms.items():
            if one.alpha > part * (1 + 1e-9):
                raise ValueError(f"{metric} of {arm} was measured at α = {one.alpha:g}; its part is {part:g}")


def _figures(metric: str, one: Effect) -> str:
    confidence = f"with {1 - one.alpha:.1%} confidence"
    if math.isfinite(one.relative_lower):
        interval = f"between {one.relative_lower:+.1%} and {one.relative_upper:+.1%}"
        return f"{metric} {one.relative:+.1%}, {interval} {confidence}"
    if math.isfinite(one.lower):
        return f"{metric} {one.difference:+.3g}, between {one.lower:+.3g} and {one.upper:+.3g} {confidence}"
    return f"{metric} cannot be compared yet"


def _harm(one: Evidence) -> str:
    allowed = f"more than the {one.tolerance:.1%} that is allowed" if one.tolerance else "and no loss is allowed"
    if not math.isfinite(one.lower):
        return f"{one.arm} harms: {one.metric} is certain to be worse, {allowed}"
    return f"{one.arm} harms: {one.metric} is worse by at least {one.lower:.1%} of the control's mean, {allowed}"


def _mismatch(one: Mismatch) -> str:
    total = max(1, sum(one.counts))
    seen = " : ".join(f"{count / total:.2%}" for count in one.counts)
    assigned = " : ".join(f"{share:.2%}" for share in one.shares)
    return f"Units reach the arms as {seen} instead of {assigned} (p = {one.p:.2g}), so no difference means anything"
