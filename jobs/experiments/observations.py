"""From questions to units: what each user (session, tenant) of an experiment did within its window. Pure.

    outcomes (audit) + judgements (feedback) → values by question → mean by unit → order in which the windows closed

A unit's window opens with its first exposure and stays open for `spec.window_s`; what happens later is not counted, a
unit whose window is open does not count yet. So every unit counts once, whole, and the order of counting says nothing
of its arm: what the confidence sequences need. The end of an experiment closes every window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from services.audit.reading import StoredOutcome
from services.experiments.interleaving import credit
from services.experiments.metrics import METRICS
from services.experiments.spec import Spec
from tenants.records import Feedback

FOLLOW_UP_MS = 600_000
EXAMPLES = 5
_OF_WHOLE = ("answer_ms", "tokens", "abstained")
CREDIT = "credit"  # of an interleaved list: 1 the rival's clicks were more, 0 the control's, .5 neither

Float64 = npt.NDArray[np.float64]
Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One feedback: what was said of a question, and when (Unix ms)."""

    query_id: str
    body: Mapping[str, Any]
    at_ms: int


@dataclass(frozen=True, slots=True)
class Observations:
    """Units in the order in which they closed.

    arm        (n,) int8 place in `spec.arms`
    value      {metric: (n,) float64}; covariate likewise, the unit's own past, NaN = none
    exposed    (k,) units of each arm that were ever exposed, open ones included
    questions  (k,) questions of each arm;  `open_units` whose window has not closed
    examples   {arm: (query id, value) of its units with the best values of the spec's metric}, for people to read
    """

    arm: npt.NDArray[np.int8]
    value: Mapping[str, Float64]
    covariate: Mapping[str, Float64]
    exposed: tuple[int, ...]
    questions: tuple[int, ...]
    open_units: int = 0
    examples: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)


def observe(
    spec: Spec,
    outcomes: Iterable[StoredOutcome],
    judgements: Iterable[Judgement],
    past: Mapping[str, Values],
    now_ms: int,
    *,
    ended: bool = False,
) -> Observations:
    """`past` {unit: its values before the experiment}. A unit that was seen in two arms stays with the first."""
    said, units = by_query(judgements), by_unit(outcomes)
    place = {arm.name: number for number, arm in enumerate(spec.arms)}
    exposed, questions = [0] * len(place), [0] * len(place)
    closed: list[tuple[float, str, int, Values]] = []
    examples: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for unit, rows in units.items():
        arm = place.get(rows[0].arm)
        if arm is None:
            continue
        rows = [row for row in rows if row.arm == rows[0].arm]
        exposed[arm] += 1
        questions[arm] += len(rows)
        closes = rows[0].at_ms + spec.window_s * 1000
        if closes > now_ms and not ended:
            continue
        values = unit_values(rows, said, closes)
        closed.append((closes, unit, arm, values))
        examples[spec.arms[arm].name].append((values.get(spec.metric, 0.0), rows[0].query_id))
    closed.sort(key=lambda one: one[:2])
    return Observations(
        arm=np.array([arm for _, _, arm, _ in closed], np.int8),
        value={name: np.array([values[name] for *_, values in closed], np.float64) for name in METRICS},
        covariate={name: _past(closed, past, name) for name in METRICS},
        exposed=tuple(exposed),
        questions=tuple(questions),
        open_units=sum(exposed) - len(closed),
        examples={arm: _best(rows, METRICS[spec.metric].sign) for arm, rows in examples.items()},
    )


def _best(rows: Sequence[tuple[float, str]], sign: float) -> tuple[tuple[str, float], ...]:
    ordered = sorted(rows, key=lambda one: (-sign * one[0], one[1]))
    return tuple((query, value) for value, query in ordered[:EXAMPLES])


def mean_credits(
    spec: Spec, outcomes: Iterable[StoredOutcome], judgements: Iterable[Judgement], now_ms: int, *, ended: bool = False
) -> Float64:
    """(n,) float64 of an interleaved experiment: each closed unit's mean credit in [0, 1], in the order of closing."""
    said = by_query(judgements)
    closed: list[tuple[float, str, float]] = []
    for unit, rows in by_unit(outcomes).items():
        closes = rows[0].at_ms + spec.window_s * 1000
        if closes <= now_ms or ended:
            values = [_credit(row, said, closes) for row in rows if row.at_ms <= closes]
            closed.append((closes, unit, float(np.mean(values))))
    return np.array([value for *_, value in sorted(closed)], np.float64)


def unix_ms(when: datetime) -> int:
    """Milliseconds since 1970, as outcomes and judgements count."""
    return int(when.timestamp() * 1000)


def judgements_of(rows: Iterable[Feedback]) -> list[Judgement]:
    """What the control plane keeps of users' feedback."""
    return [Judgement(row.query_id, row.body, unix_ms(row.created_at)) for row in rows]


def by_query(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """Judgements by the question that they are about."""
    said: dict[str, list[Judgement]] = defaultdict(list)
    for one in judgements:
        said[one.query_id].append(one)
    return said


def by_unit(outcomes: Iterable[StoredOutcome]) -> dict[str, list[StoredOutcome]]:
    """Questions by unit, each unit's in the order of asking."""
    units: dict[str, list[StoredOutcome]] = defaultdict(list)
    for row in sorted(outcomes, key=lambda row: (row.at_ms, row.query_id)):
        units[row.unit].append(row)
    return units


def pairs_of(outcomes: Iterable[StoredOutcome], spec: Spec) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """({metric: (n,) control's}, {metric: (n,) rival's}) of questions that a shadow experiment ranked by both arms."""
    found: dict[str, dict[str, Values]] = defaultdict(dict)
    for row in outcomes:
        found[row.query_id][row.arm] = own_values(row) | {"overlap": float(row.values.get("overlap", 1.0))}
    control, rival = (arm.name for arm in spec.arms)
    both = [arms for arms in found.values() if control in arms and rival in arms]
    names = ("degraded", "answer_ms", "rerank_ms", "pairs", "overlap")
    one, other = (
        {name: np.array([arms[arm][name] for arms in both], np.float64) for name in names} for arm in (control, rival)
    )
    return one, other


def unit_values(rows: Sequence[StoredOutcome], said: Mapping[str, Sequence[Judgement]], until_ms: float) -> Values:
    """Means over the unit's questions (by time) until its window closes, `until_ms`; `said` by query id."""
    inside = [row for row in rows if row.at_ms <= until_ms]
    table = []
    for number, row in enumerate(inside):
        heard = [one for one in said.get(row.query_id, ()) if one.at_ms <= until_ms]
        asked_on = number + 1 < len(inside) and inside[number + 1].at_ms - row.at_ms <= FOLLOW_UP_MS
        table.append(own_values(row) | _told(row, heard) | {"followed_up": float(asked_on)})
    # What was left before its end says nothing of the time and the tokens that the whole would have taken.
    whole = [values for values in table if not values["abandoned"]] or table
    return {
        name: float(np.mean([values[name] for values in (whole if name in _OF_WHOLE else table)])) for name in METRICS
    }


def own_values(row: StoredOutcome) -> Values:
    """What the record itself says of one question."""
    values = row.values
    return {
        "abstained": float(values["abstained"]),
        "abandoned": float(values["state"] == "streaming"),
        "degraded": float(values["degraded"]),
        "answer_ms": float(values["ms"]),
        "rerank_ms": float(values["rerank_ms"]),
        "pairs": float(values["pairs"]),
        "tokens": float(values["tokens"]),
    }


def _told(row: StoredOutcome, heard: Sequence[Judgement]) -> Values:
    """What its users said; a click on what was not shown is nobody's."""
    shown = row.values["shown"]
    ranks = [shown.index(chunk) + 1 for chunk in _clicked(heard) if chunk in shown]
    ratings = [one.body["rating"] for one in heard if one.body.get("rating") is not None]
    last = ratings[-1] if ratings else 0
    return {
        "clicked": float(bool(ranks)),
        "click_rank": 1.0 / min(ranks) if ranks else 0.0,
        "liked": float(last > 0),
        "disliked": float(last < 0),
    }


def _credit(row: StoredOutcome, said: Mapping[str, Sequence[Judgement]], until_ms: float) -> float:
    shown, teams = row.values["shown"], row.values.get("teams", [])
    heard = [one for one in said.get(row.query_id, ()) if one.at_ms <= until_ms]
    return credit(teams, {shown.index(chunk) for chunk in _clicked(heard) if chunk in shown})


def _clicked(heard: Sequence[Judgement]) -> list[str]:
    return [chunk for one in heard for chunk in one.body.get("clicked") or ()]


def _past(closed: Sequence[tuple[float, str, int, Values]], past: Mapping[str, Values], name: str) -> Float64:
    return np.array([past.get(unit, {}).get(name, np.nan) for _, unit, _, _ in closed], np.float64)
