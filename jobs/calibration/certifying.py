"""Every price on every logged question, and the certificate that follows. Ray-free.

A policy's batches do not depend on the price, a higher one only stops sooner. So one greedy run a question gives all
prices: the run at the lowest price is followed, and each price ends where the next batch is no longer worth it.
The reference is the run at price 0: the large model on every candidate down to the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from jobs.calibration.logs import Logged
from services.contracts import Int32
from services.reranking import losses
from services.reranking.certificate import (
    DAYS,
    DELTA,
    EVIDENCE,
    Certificate,
    Conditions,
    fixed_sequence,
    group_of,
    split_digest,
    upper_bound,
)
from services.reranking.facts import Action, Costs, Limits
from services.reranking.policy import State, Verdict, conclude, decide, observe, start
from services.reranking.profile import Profile

DEPTH = 100
EVIDENCE_ROWS = 6
PROBABLE = 0.5  # without labels a row counts as evidence from this probability on
ALPHAS: Mapping[str, tuple[float, ...]] = {"casual": (0.02,), "standard": (0.01, 0.02), "high": (0.005, 0.01)}
NEEDED: Mapping[float, int] = {0.02: 300, 0.01: 1_000, 0.005: 2_000}  # questions that pay for a regret of at most α

Float64 = npt.NDArray[np.float64]
Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Replayed:
    """n questions at m rising prices.

    losses {regret | evidence | fidelity: (n, m) in [0, 1]}; `regret` only when every question has labels
    quality (n, m) nDCG@10, NaN without labels; first, full (n,) that of the first stage and of the reference
    pairs, work (n, m) pairs scored and their cost in the unit of the costs; full_pairs, full_work (n,) the reference's
    """

    prices: tuple[float, ...]
    losses: Mapping[str, Float64]
    quality: Float64
    first: Float64
    full: Float64
    pairs: Float64
    work: Float64
    full_pairs: Float64
    full_work: Float64

    def risks(self) -> tuple[str, ...]:
        """The losses that a certificate of this log bounds."""
        return ("regret", "evidence") if "regret" in self.losses else ("fidelity", "evidence")


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One order of one question."""

    regret: float
    evidence: float
    fidelity: float
    quality: float
    pairs: int
    work: float


def replay(
    log: Sequence[Logged], profile: Profile, prices: Sequence[float], costs: Costs, tick: Tick | None = None
) -> Replayed:
    """Of at least one question; `prices` rise."""
    rows, firsts, fulls = [], [], []
    for number, one in enumerate(log, 1):
        reference = _reference(one, profile, costs)
        judge = _judge(one, reference, profile)
        firsts.append(_quality(one, np.argsort(one.facts.rank)))
        fulls.append(judge(reference))
        rows.append([judge(verdict) for verdict in verdicts(one, profile, prices, costs, reference)])
        if tick is not None:
            tick(number, len(log))

    def table(name: str) -> Float64:
        return np.array([[getattr(outcome, name) for outcome in row] for row in rows], np.float64)

    named = ("regret", "evidence", "fidelity") if all(one.labelled for one in log) else ("evidence", "fidelity")
    return Replayed(
        prices=tuple(prices),
        losses={name: table(name) for name in named},
        quality=table("quality"),
        first=np.array(firsts),
        full=np.array([outcome.quality for outcome in fulls]),
        pairs=table("pairs"),
        work=table("work"),
        full_pairs=np.array([outcome.pairs for outcome in fulls], np.float64),
        full_work=np.array([outcome.work for outcome in fulls], np.float64),
    )


def verdicts(
    one: Logged, profile: Profile, prices: Sequence[float], costs: Costs, reference: Verdict | None = None
) -> list[Verdict]:
    """What `policy.simulate` gives at each of the rising prices, in one run; `reference` is the one of price 0."""
    free = [reference or _reference(one, profile, costs) for price in prices if price <= 0]
    paying = [price for price in prices if price > 0]
    ended: list[Verdict] = []  # the dearest first: it stops no later than any other
    if paying:
        for state, action in _run(one, profile, paying[0], costs):
            here = sum(price >= action.rate for price in paying)
            if here:
                why = action.why if action.kind == "stop" and action.why == "complete" else "worth"
                ended += [conclude(state, why)] * here
                del paying[-here:]
    return [*free, *reversed(ended)]


def _run(one: Logged, profile: Profile, price: float, costs: Costs) -> Iterator[tuple[State, Action]]:
    """Each state with the action that the policy takes in it, the stop included."""
    state = start(one.facts, profile, price, costs, Limits(depth=DEPTH))
    while True:
        action = decide(state)
        yield state, action
        if action.kind == "stop":
            return
        said = one.logits[action.kind][action.rows]
        state = observe(state, action, said, np.zeros(len(said), np.bool_), action.cost)


def _reference(one: Logged, profile: Profile, costs: Costs) -> Verdict:
    state = start(one.facts, profile, 0.0, costs, Limits(depth=DEPTH))
    while (action := decide(state)).kind != "stop":
        said = one.logits[action.kind][action.rows]
        state = observe(state, action, said, np.zeros(len(said), np.bool_), action.cost)
    return conclude(state, action.why)


def _judge(one: Logged, reference: Verdict, profile: Profile) -> Callable[[Verdict], _Outcome]:
    """Measures an order against the reference; orders that repeat are measured once."""
    gains = profile.relevance(reference.score)
    relevant = one.grades > 0 if one.grades is not None else gains >= PROBABLE
    best = _quality(one, reference.order)
    known: dict[bytes, tuple[float, float, float, float]] = {}

    def measured(order: Int32) -> tuple[float, float, float, float]:
        quality = _quality(one, order)
        missed = losses.evidence_miss(order, reference.order, relevant, EVIDENCE_ROWS)
        regret = losses.regret(quality, best) if one.labelled else np.nan
        return regret, missed, losses.fidelity_loss(order, gains), quality

    def judge(verdict: Verdict) -> _Outcome:
        key = verdict.order[: 2 * DEPTH].tobytes()
        if key not in known:
            known[key] = measured(verdict.order)
        return _Outcome(*known[key], pairs=verdict.pairs, work=verdict.spent)

    return judge


def _quality(one: Logged, order: npt.ArrayLike) -> float:
    return one.quality(order) if one.labelled else float("nan")


@dataclass(frozen=True, slots=True)
class Issue:
    """Whom a certificate is for and what it speaks of."""

    language: str
    conditions: Conditions
    source: str
    at: datetime


def certify(log: Sequence[Logged], replayed: Replayed, criticality: str, issue: Issue) -> Certificate | None:
    """The group's certificate; None when there are too few questions or not even the first price holds.

    The questions stand in an order that knows nothing of their losses (`fitting.halves`).
    """
    alpha = next((one for one in ALPHAS[criticality] if len(log) >= NEEDED[one]), None)
    if alpha is None:
        return None
    main, evidence = replayed.risks()
    risks = {main: alpha, evidence: EVIDENCE}
    tested = fixed_sequence({name: replayed.losses[name] for name in risks}, risks)
    if not tested.passed:
        return None
    last = tested.passed - 1
    return Certificate(
        group=group_of(criticality, issue.language),
        price=replayed.prices[last],
        alpha=alpha,
        delta=DELTA,
        n=len(log),
        p_value=max(tested.p_values[: tested.passed]),
        risks=risks,
        split=split_digest([one.query_id for one in log]),
        source=issue.source,
        issued_at=issue.at.isoformat(timespec="seconds"),
        expires_at=(issue.at + timedelta(days=DAYS)).isoformat(timespec="seconds"),
        watch=max(alpha, upper_bound(replayed.losses["fidelity"][:, last])),
        conditions=issue.conditions,
    )


def with_certificates(profile: Profile, certificates: Sequence[Certificate]) -> Profile:
    """The profile with a group for each."""
    return replace(profile, groups={one.group: one for one in certificates})
