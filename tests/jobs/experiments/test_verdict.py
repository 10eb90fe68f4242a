"""The verdict: one case a word, the order of the words, directions of metrics, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from jobs.experiments.effects import Effect, Series
from jobs.experiments.ratio import mismatch
from jobs.experiments.verdict import Verdict, decide
from services.experiments.spec import Arm, Guardrail, Spec

FINE = mismatch([500, 500], [0.5, 0.5])
SPEC = Spec(
    name="e",
    tenants=("acme",),
    arms=(Arm(name="control"), Arm(name="b")),
    guardrails=(Guardrail(metric="answer_ms", tolerance=0.1),),
)


def of(low: float, high: float, mean: float = 1.0, alpha: float = 0.05) -> Effect:
    """An effect whose relative interval is [low, high] about a control mean that is known."""
    middle = (low + high) / 2
    figures = {"difference": middle * mean, "lower": low * mean, "upper": high * mean}
    relative = {"relative": middle, "relative_lower": low, "relative_upper": high}
    about = {"control_lower": mean, "control_upper": mean, "control_mean": mean, "mean": mean * (1 + middle)}
    rest = {"treatment": 1, "control_units": 500, "units": 500, "p": 1.0, "alpha": alpha, "reduction": 0.0}
    return Effect(**figures, **relative, **about, **rest, series=Series())


def told(primary: Effect | None, guard: Effect | None = None, units: int = 1_000, spec: Spec = SPEC) -> Verdict:
    effects = {"clicked": {"b": primary} if primary else {}, "answer_ms": {"b": guard} if guard else {}}
    return decide(spec, effects, FINE, units, 2_000)


@pytest.mark.parametrize(
    ("low", "high", "units", "word", "arm", "stops"),
    [
        (-0.05, 0.05, 1_000, "collecting", None, False),
        (-0.05, 0.05, 2_000, "inconclusive", None, False),
        (-0.02, 0.02, 1_000, "no_difference", "b", False),
        (0.01, 0.05, 1_000, "better", "b", False),
        (0.01, 0.02, 2_000, "better", "b", False),
        (-0.05, -0.01, 1_000, "worse", "b", False),
        (-0.05, -0.01, 2_000, "harmful", "b", True),  # the planned size is reached: no certain loss is allowed
        (-0.09, -0.04, 1_000, "harmful", "b", True),  # more than minimum_effect = 3 % at any look
    ],
)
def test_each_word(low: float, high: float, units: int, word: str, arm: str | None, stops: bool) -> None:
    found = told(of(low, high), units=units)
    assert (found.word, found.arm, found.stops) == (word, arm, stops)
    assert found.harmful == (("b",) if word == "harmful" else ())
    assert f"{units:,} of 2,000" in found.reason


def test_a_guardrail_is_violated_only_past_its_tolerance_and_in_its_direction() -> None:
    good = of(0.01, 0.05)
    assert told(good, of(0.09, 0.3)).word == "better"
    slow = told(good, of(0.11, 0.3))
    assert (slow.word, slow.harmful, slow.stops) == ("harmful", ("b",), True)
    assert "answer_ms is worse by at least 11.0%" in slow.reason
    fast = told(good, of(-0.3, -0.11))
    assert fast.word == "better"
    row = fast.evidence[1]
    assert (row.metric, row.tolerance, row.lower, row.upper) == ("answer_ms", 0.1, -0.3, -0.11)
    assert not row.violated


def test_a_metric_where_less_is_better() -> None:
    spec = SPEC.model_copy(update={"metric": "answer_ms", "guardrails": ()})
    effects = {"answer_ms": {"b": of(-0.05, -0.01)}}
    found = decide(spec, effects, FINE, 10, 20)
    assert (found.word, found.evidence[0].loss) == ("better", pytest.approx(-0.03))
    assert decide(spec, {"answer_ms": {"b": of(0.01, 0.05)}}, FINE, 10, 20).word == "worse"
    assert decide(spec, {"answer_ms": {"b": of(0.04, 0.05)}}, FINE, 10, 20).word == "harmful"


def test_a_mismatch_comes_before_everything() -> None:
    lost = mismatch([5_000, 4_000], [0.5, 0.5])
    found = decide(SPEC, {"clicked": {"b": of(-0.5, -0.4)}}, lost, 9_000, 2_000)
    assert (found.word, found.stops, found.harmful) == ("mismatch", True, ("b",))
    assert "55.56% : 44.44% instead of 50.00% : 50.00%" in found.reason


def test_a_control_of_zero_is_judged_by_the_difference() -> None:
    spec = SPEC.model_copy(update={"guardrails": (Guardrail(metric="degraded", tolerance=0.5),)})
    unknown = {"relative": math.inf, "relative_lower": -math.inf, "relative_upper": math.inf}
    bad = replace(of(0.04, 0.06), **unknown, control_lower=-0.01, control_upper=0.01)
    found = decide(spec, {"clicked": {"b": of(-0.02, 0.02)}, "degraded": {"b": bad}}, FINE, 10, 20)
    assert found.word == "harmful"  # at least .04, and half of the control is at most .005
    assert "degraded is certain to be worse" in found.reason
    mild = replace(bad, lower=0.004)
    assert decide(spec, {"clicked": {"b": of(-0.02, 0.02)}, "degraded": {"b": mild}}, FINE, 10, 20).word != "harmful"
    zero = spec.model_copy(update={"guardrails": (Guardrail(metric="degraded"),)})
    assert decide(zero, {"degraded": {"b": mild}}, FINE, 10, 20).word == "harmful"
    json.dumps(found.to_json(), allow_nan=False)


def test_without_figures_it_collects_and_then_says_so() -> None:
    infinite = of(-math.inf, math.inf)
    nothing = replace(infinite, relative=math.nan, difference=math.nan, control_lower=-math.inf, control_upper=math.inf)
    for primary in (None, nothing):
        assert told(primary, nothing).word == "collecting"
        assert told(primary, nothing, units=2_000).word == "inconclusive"


def test_several_treatments() -> None:
    spec = SPEC.model_copy(update={"arms": (*SPEC.arms, Arm(name="c"))})
    half = {"alpha": 0.025}

    def word(b: Effect, c: Effect) -> tuple[str, str | None]:
        found = decide(spec, {"clicked": {"b": b, "c": c}}, FINE, 10, 20)
        return found.word, found.arm

    assert word(of(0.01, 0.05, **half), of(0.02, 0.04, **half)) == ("better", "c")
    assert word(of(0.01, 0.05, **half), of(-0.2, -0.1, **half)) == ("harmful", "c")
    assert word(of(-0.02, 0.02, **half), of(-0.01, 0.02, **half)) == ("no_difference", None)
    assert word(of(-0.02, 0.02, **half), of(-0.01, 0.05, **half)) == ("collecting", None)
    with pytest.raises(ValueError, match=r"its part is 0\.025"):
        word(of(0.01, 0.05), of(0.02, 0.04))
