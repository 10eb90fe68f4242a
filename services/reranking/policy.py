"""Which pair to score next, or none: greedy value of computation. Pure, vectorised, the same bits for the same facts.

    final score   f_i = β·o_i + (1 − β)·fused_i     o_i opinion (calibration.py): known, or expected (predictor.py)
    worth         r_i = σ(slope·f_i + bias)          the probability that the asker finds i relevant
    gain(i, m)    E[DCG@10 of the order by f after model m scored i] − DCG@10 of the order now, gains r
    ratio         Σ gain over a batch / (its cost / Costs.unit), and the batch with the best ratio is next
    rate          √(ratio · TYPICAL / (EARLY + spent / Costs.unit))

It is taken while its rate exceeds the price λ: predicted gains differ more between corpora than real ones do, so
their logarithm is shrunk half way to what a pair brings on average after so much was spent (`benchmarks/rerank.py`;
the pure ratio loses to a fixed depth). Before the first call the same rule is the gate that skips the whole
question. A batch never depends on λ, so a higher price takes a beginning of what a lower one takes: never more pairs.
λ = 0 is the reference: the large model (the small where no other is served) on every candidate down to the depth.
A small logit moves o_i less than a large one, but costs less: the same formula with a narrower spread weighs them.
Gains are divided by the DCG of the ideal order of r, at least 1, so that finding the one right passage counts more
than the ninth of many, and by 1 + κ·Σ r of the scored ones: most questions have few right passages. Flagged
candidates among the best 10 are always shown to the large model, at any price.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from services.contracts import Bool, Float32, Int32
from services.reranking.facts import Action, Costs, Facts, Float64, Limits, Role, Step
from services.reranking.profile import Profile
from services.reranking.valuation import Ground, K, Places, View, gains, look, probabilities, top_chance

WINDOW = 32  # candidates that are weighed at once: the best unscored ones as things stand
TYPICAL, EARLY = 0.03, 2.0  # of public data: the next unit brings .03/(2 + units before) of nDCG@10, on average
BATCHES = (3, 4, 8, 12, 16, 24)  # the fewest pairs of the n-th batch; the last stands for all later ones
STRIDE = 16  # pairs of a batch at λ = 0 under a limit, so that it is overstepped by little
REASONS = ("skipped_confident", "scored_small", "escalated", "cached", "budget_stop", "flagged")


@dataclass(frozen=True, slots=True)
class State:
    """One question in the middle. Arrays (n,) are in the order of the first stage, not of the candidates.

    `rows` are the candidate rows in that order, `place` the inverse; `view` is what is believed now; `prices` what a
    pair of each costs by role; large, small float32 raw logits, NaN = not scored, `heard` the same on the predictor's
    scales.
    """

    price: float
    costs: Costs
    limits: Limits
    rows: Int32
    place: Places
    ground: Ground
    view: View
    prices: Mapping[Role, Float64]
    large: Float32
    small: Float32
    heard: Mapping[Role, Float64]
    cached: Bool
    steps: tuple[Step, ...] = ()
    spent: float = 0.0

    @property
    def pairs(self) -> int:
        """Pairs that a model was asked for, cached ones included."""
        return sum(len(step.logits) for step in self.steps)

    @property
    def allowed(self) -> int:
        """Candidates that may be scored at all."""
        return min(self.limits.depth, len(self.rows))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a question. Arrays (n,) are in the candidates' order.

    order int32 rows, best first; score, opinion (as used), probability float32, these two known or expected;
    logits by role, float32, NaN = not scored; top float32 P(among the best 10 if all were scored); reasons: REASONS.
    `stop` is Action.why; `regret` bounds from above what scoring each of the best 32 others alone would
    gain, in nDCG@10.
    `pairs` really scored, `cached` answered by the cache.
    """

    order: Int32
    score: Float32
    opinion: Float32
    probability: Float32
    logits: dict[Role, Float32]
    top: Float32
    reasons: tuple[str, ...]
    stop: str
    regret: float
    steps: tuple[Step, ...]
    pairs: int
    cached: int
    spent: float


def start(facts: Facts, profile: Profile, price: float, costs: Costs, limits: Limits) -> State:
    """Nothing is scored yet. `price` is final: criticality is already in it."""
    rows = np.argsort(facts.rank).astype(np.int32)
    ordered = Facts(
        facts.question, facts.rows[rows], facts.fused[rows], facts.rank[rows], facts.tokens[rows], facts.flagged[rows]
    )
    blank = np.full(len(rows), np.nan, np.float32)
    heard: dict[Role, Float64] = {"large": blank.astype(np.float64), "small": blank.astype(np.float64)}
    ground = Ground.of(ordered, profile)
    return State(
        price=price,
        costs=costs,
        limits=limits,
        rows=rows,
        place=np.argsort(rows),
        ground=ground,
        view=look(ground, blank, heard),
        prices={role: table.of(ordered.tokens) for role, table in costs.tables.items()},
        large=blank,
        small=blank,
        heard=heard,
        cached=np.zeros(len(rows), np.bool_),
    )


def decide(state: State) -> Action:
    """The next batch, or a stop."""
    action = _exhaustive(state) if state.price <= 0 else _greedy(state)
    return action if action.kind == "stop" else _within(state, action)


def observe(state: State, action: Action, logits: Float32, cached: Bool, elapsed: float) -> State:
    """What the model said of `action.rows`, in their order; `elapsed` in the unit of the costs."""
    here, role = state.place[action.rows], _role(action)
    predictor, seen = state.ground.profile.predictor, state.cached.copy()
    column = (state.large if role == "large" else state.small).copy()
    told = state.heard[role].copy()
    column[here] = logits
    told[here] = (predictor.large if role == "large" else predictor.small).of(logits)
    seen[here] = cached
    large, heard = column if role == "large" else state.large, {**state.heard, role: told}
    return replace(
        state,
        view=look(state.ground, large, heard),
        large=large,
        small=column if role == "small" else state.small,
        heard=heard,
        cached=seen,
        steps=(*state.steps, Step(action, logits, cached, elapsed)),
        spent=state.spent + elapsed,
    )


def conclude(state: State, why: str | None = None) -> Verdict:
    """The final order. `why` names the stop when it was not the policy's own (failed, budget)."""
    stop = why or decide(state).why or "asked"
    view, back = state.view, state.place
    order = state.rows[np.argsort(view.place)].astype(np.int32)
    return Verdict(
        order=order,
        score=view.score.astype(np.float32)[back],
        opinion=view.opinion.astype(np.float32)[back],
        probability=probabilities(state.ground, view, state.large)[back],
        logits={"large": state.large[back], "small": state.small[back]},
        top=top_chance(state.ground, view)[back],
        reasons=tuple(np.array(_reasons(state, stop), dtype=object)[back].tolist()),
        stop=stop,
        regret=_regret(state),
        steps=state.steps,
        pairs=sum(int((~step.cached).sum()) for step in state.steps),
        cached=sum(int(step.cached.sum()) for step in state.steps),
        spent=state.spent,
    )


def simulate(
    facts: Facts, logits: Mapping[Role, Float32], profile: Profile, price: float, costs: Costs, limits: Limits
) -> Verdict:
    """The loop on known logits, (n,) by role: what serving would do and spend with a cold cache."""
    state = start(facts, profile, price, costs, limits)
    while (action := decide(state)).kind != "stop":
        said = logits[action.kind][action.rows]
        state = observe(state, action, said, np.zeros(len(said), np.bool_), action.cost)
    return conclude(state, action.why)


def _exhaustive(state: State) -> Action:
    role: Role = "large" if "large" in state.costs.tables else "small"
    column = state.large if role == "large" else state.small
    left = np.flatnonzero(np.isnan(column[: state.allowed]))
    if not len(left):
        return Action("stop", why="complete")
    limited = state.limits.budget < math.inf or state.limits.pairs is not None
    return _action(state, role, left[:STRIDE] if limited else left, 0.0)


def _greedy(state: State) -> Action:
    forced = _forced(state)
    if len(forced):
        return replace(_action(state, "large", forced, 0.0), rate=math.inf)
    room = state.allowed - state.pairs
    offers = [offer for role in state.costs.tables if room > 0 and (offer := _offer(state, role, room))]
    if not offers:
        return Action("stop", why="complete")
    ratio, action = max(offers, key=lambda offer: offer[0])
    rate = math.sqrt(ratio * TYPICAL / (EARLY + state.spent / state.costs.unit))
    if rate > state.price:
        return replace(action, rate=rate)
    return Action("stop", gain=action.gain, cost=action.cost, why="worth")


def _offer(state: State, role: Role, room: int) -> tuple[float, Action] | None:
    """The batch of one model with the best ratio, and that ratio."""
    open_ = _window(state, role)
    if not len(open_):
        return None
    gain = gains(state.ground, state.view, role, open_)
    cost = state.prices[role][open_]
    best = np.argsort(-gain / cost, kind="stable")[:room]
    least = min(len(best), BATCHES[min(len(state.steps), len(BATCHES) - 1)])
    total, price = np.cumsum(gain[best]), (state.costs.call + np.cumsum(cost[best])) / state.costs.unit
    size = least + int(np.argmax((total / price)[least - 1 :]))
    rows = np.sort(open_[best[:size]])
    return float(total[size - 1] / price[size - 1]), _action(state, role, rows, float(total[size - 1]))


def _window(state: State, role: Role) -> Places:
    """The best WINDOW that a model may still be asked about, as things stand."""
    open_ = np.flatnonzero(_open(state, role))
    if len(open_) <= WINDOW:
        return open_
    return np.sort(open_[np.argsort(-state.view.score[open_], kind="stable")[:WINDOW]])


def _open(state: State, role: Role) -> Bool:
    """Which candidates a model may still be asked about."""
    open_ = np.isnan(state.large)
    if role == "small":
        open_ &= np.isnan(state.small) & ~state.ground.facts.flagged
    open_[state.allowed :] = False
    return open_


def _forced(state: State) -> Places:
    """Flagged candidates that would be shown without the large model's word."""
    if not state.ground.facts.flagged.any() or "large" not in state.costs.tables:
        return np.empty(0, np.intp)
    return np.flatnonzero(state.ground.facts.flagged & (state.view.place < K) & _open(state, "large"))


def _action(state: State, role: Role, rows: Places, gain: float) -> Action:
    """`rows` count in the state's order; the action names candidate rows."""
    cost = state.costs.call + float(state.prices[role][rows].sum())
    return Action(role, state.rows[rows], gain, cost)


def _within(state: State, action: Action) -> Action:
    """As much of a batch as the budget and the quota still hold."""
    left = math.inf if state.limits.pairs is None else state.limits.pairs - state.pairs
    if left <= 0:
        return Action("stop", why="pairs")
    total = state.costs.call + np.cumsum(state.prices[_role(action)][state.place[action.rows]])
    fitting = int(min(left, np.searchsorted(total, state.limits.budget - state.spent, side="right")))
    if fitting <= 0:
        return Action("stop", gain=action.gain, cost=action.cost, why="budget")
    if fitting >= len(action.rows):
        return action
    return replace(action, rows=action.rows[:fitting], cost=float(total[fitting - 1]))


def _role(action: Action) -> Role:
    return "large" if action.kind == "large" else "small"


def _regret(state: State) -> float:
    if state.ground.profile.blend <= 0 or "large" not in state.costs.tables:
        return 0.0
    return float(gains(state.ground, state.view, "large", _window(state, "large")).sum())


def _reasons(state: State, stop: str) -> list[str]:
    unscored = "skipped_confident" if stop in ("worth", "complete", "asked") else "budget_stop"
    known, hinted = np.isfinite(state.large), np.isfinite(state.small)
    named = np.where(known, "escalated", np.where(hinted, "scored_small", unscored)).astype(object)
    named[(known | hinted) & state.cached] = "cached"
    named[state.ground.facts.flagged & known] = "flagged"
    return list(named)
