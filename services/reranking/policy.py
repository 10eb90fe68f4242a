"""Which pair to score next, or none: greedy value of computation. Pure, vectorised, the same bits for the same facts.

    final score   f_i = β·p_i + (1 − β)·fused_i     p_i calibrated probability: known, or expected (predictor.py)
    worth         r_i = σ(slope·f_i + bias)          the probability that the asker finds i relevant
    gain(i, m)    E[DCG@10 of the order by f after model m scored i] − DCG@10 of the order now, gains r
    ratio         Σ gain over a batch / (its cost / Costs.unit), and the batch with the best ratio is next
    rate          √(ratio · TYPICAL / (EARLY + spent / Costs.unit))

It is taken while its rate exceeds the price λ: predicted gains differ more between corpora than real ones do, so
their logarithm is shrunk half way to what a pair brings on average after so much was spent (`benchmarks/rerank.py`;
the pure ratio loses to a fixed depth). Before the first call the same rule is the gate that skips the whole
question. A batch never depends on λ, so a higher price takes a beginning of what a lower one takes: never more pairs.
λ = 0 is the reference: the large model (the small where no other is served) on every candidate down to the depth.
A small logit moves p_i less than a large one, but costs less: the same formula with a narrower spread weighs them.
Gains are divided by the DCG of the ideal order of r, at least 1, so that finding the one right passage counts more
than the ninth of many, and by 1 + κ·Σ r of the scored ones: most questions have few right passages. Flagged
candidates among the best 10 are always shown to the large model, at any price.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from services.contracts import Bool, Float32, Int32
from services.reranking.facts import Action, Costs, Facts, Float64, Limits, Role, Step
from services.reranking.predictor import Belief, Prior
from services.reranking.profile import Profile

K = 10
WINDOW = 32  # candidates that are weighed at once: the best unscored ones as things stand
TYPICAL, EARLY = 0.03, 2.0  # of public data: the next unit brings .03/(2 + units before) of nDCG@10, on average
BATCHES = (3, 3, 4, 6, 8, 12, 16)  # the fewest pairs of the n-th batch; the last stands for all later ones
STRIDE = 16  # pairs of a batch at λ = 0 under a limit, so that it is overstepped by little
REASONS = ("skipped_confident", "scored_small", "escalated", "cached", "budget_stop", "flagged")

Places = npt.NDArray[np.intp]

# What the small model may say, in deviations of its effect on the mean: middles of seven parts of a logistic.
_HINT_CHANCE = np.array([0.2, 0.3, 0.25, 0.15, 0.06, 0.03, 0.01])
_HINTS = np.array([-1.379, -0.354, 0.288, 0.872, 1.444, 2.057, 3.088])

_DISCOUNT = np.concatenate([1.0 / np.log2(np.arange(2, K + 2)), [0.0]])


@dataclass(frozen=True, slots=True)
class State:
    """One question in the middle. Arrays (n,) are in the order of the first stage, not of the candidates.

    `rows` are the candidate rows in that order, `place` the inverse; `levels` (m,) p of the predictor's levels;
    `prices` what a pair of each costs by role; large, small float32 raw logits, NaN = not scored, `heard` the same on
    the predictor's scales.
    """

    facts: Facts
    profile: Profile
    price: float
    costs: Costs
    limits: Limits
    rows: Int32
    place: Places
    prior: Prior
    levels: Float64
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
class View:
    """What a state means, in its order. (n,) float64: p, final score f, worth r; place (n,) 0-based in the final order.

    `chance` (n, m) float64: probability of each level of the predictor.
    """

    belief: Belief
    chance: Float64
    probability: Float64
    score: Float64
    worth: Float64
    place: Places


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a question. Arrays (n,) are in the candidates' order.

    order int32 rows, best first; score, probability float32 (p as used, known or expected); logits by role, float32,
    NaN = not scored; top float32 P(among the best 10 if all were scored); reasons: REASONS.
    `stop` is Action.why; `regret` bounds from above what scoring each remaining candidate alone would gain, in nDCG@10.
    `pairs` really scored, `cached` answered by the cache.
    """

    order: Int32
    score: Float32
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
    return State(
        facts=ordered,
        profile=profile,
        price=price,
        costs=costs,
        limits=limits,
        rows=rows,
        place=np.argsort(rows),
        prior=profile.predictor.prior(ordered),
        levels=profile.probability(profile.predictor.levels).astype(np.float64),
        prices={role: table.of(ordered.tokens) for role, table in costs.tables.items()},
        large=blank,
        small=blank,
        heard={"large": blank.astype(np.float64), "small": blank.astype(np.float64)},
        cached=np.zeros(len(rows), np.bool_),
    )


def decide(state: State) -> Action:
    """The next batch, or a stop."""
    action = _exhaustive(state) if state.price <= 0 else _greedy(state)
    return action if action.kind == "stop" else _within(state, action)


def observe(state: State, action: Action, logits: Float32, cached: Bool, elapsed: float) -> State:
    """What the model said of `action.rows`, in their order; `elapsed` in the unit of the costs."""
    here, role = state.place[action.rows], _role(action)
    column = (state.large if role == "large" else state.small).copy()
    heard, seen = state.heard[role].copy(), state.cached.copy()
    predictor = state.profile.predictor
    column[here] = logits
    heard[here] = (predictor.large if role == "large" else predictor.small).of(logits)
    seen[here] = cached
    return replace(
        state,
        large=column if role == "large" else state.large,
        small=column if role == "small" else state.small,
        heard={**state.heard, role: heard},
        cached=seen,
        steps=(*state.steps, Step(action, logits, cached, elapsed)),
        spent=state.spent + elapsed,
    )


def conclude(state: State, why: str | None = None) -> Verdict:
    """The final order. `why` names the stop when it was not the policy's own (failed, budget)."""
    stop = why or decide(state).why or "asked"
    view = look(state)
    back = state.place
    order = state.rows[np.argsort(view.place)].astype(np.int32)
    return Verdict(
        order=order,
        score=view.score.astype(np.float32)[back],
        probability=view.probability.astype(np.float32)[back],
        logits={"large": state.large[back], "small": state.small[back]},
        top=_top(state, view)[back],
        reasons=tuple(np.array(_reasons(state, stop), dtype=object)[back].tolist()),
        stop=stop,
        regret=_regret(state, view),
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


def look(state: State) -> View:
    """Beliefs, scores and places of a state."""
    profile, facts = state.profile, state.facts
    belief = profile.predictor.posterior(state.prior, state.heard["large"], state.heard["small"])
    chance = profile.predictor.chance(belief.mean, belief.spread)
    known = np.isfinite(state.large)
    # In float32, as it is recorded: an audit record then gives the same score to the last bit.
    probability = (chance * state.levels).sum(1).astype(np.float32)
    probability[known] = profile.probability(state.large[known])
    score = final_score(profile.blend, probability, facts.fused).astype(np.float64)
    place = np.empty(len(score), np.intp)
    place[np.lexsort((facts.rank, -score))] = np.arange(len(score))
    worth = (chance * _worth(profile, _final(profile, state.levels, facts.fused[:, None]))).sum(1)
    worth[known] = _worth(profile, score[known])
    return View(belief, chance, probability.astype(np.float64), score, worth, place)


def final_score(blend: float, probability: npt.ArrayLike, fused: Float32) -> Float32:
    """(n,) float32: β·p + (1 − β)·fused of the module, computed in float64."""
    p, first = np.asarray(probability, np.float64), fused.astype(np.float64)
    return np.asarray(blend * p + (1.0 - blend) * first, np.float32)


def _final(profile: Profile, probability: Float64, fused: Float32) -> Float64:
    value: Float64 = profile.blend * probability + (1.0 - profile.blend) * fused
    return value


def _worth(profile: Profile, score: Float64) -> Float64:
    slope, bias = profile.worth
    value: Float64 = 1.0 / (1.0 + np.exp(-(slope * score + bias)))
    return value


def _exhaustive(state: State) -> Action:
    role: Role = "large" if "large" in state.costs.tables else "small"
    column = state.large if role == "large" else state.small
    left = np.flatnonzero(np.isnan(column[: state.allowed]))
    if not len(left):
        return Action("stop", why="complete")
    limited = state.limits.budget < math.inf or state.limits.pairs is not None
    return _action(state, role, left[:STRIDE] if limited else left, 0.0)


def _greedy(state: State) -> Action:
    view = look(state)
    forced = _forced(state, view)
    if len(forced):
        return replace(_action(state, "large", forced, 0.0), rate=math.inf)
    room = state.allowed - state.pairs
    offers = [offer for role in state.costs.tables if room > 0 and (offer := _offer(state, view, role, room))]
    if not offers:
        return Action("stop", why="complete")
    ratio, action = max(offers, key=lambda offer: offer[0])
    rate = math.sqrt(ratio * TYPICAL / (EARLY + state.spent / state.costs.unit))
    if rate > state.price:
        return replace(action, rate=rate)
    return Action("stop", gain=action.gain, cost=action.cost, why="worth")


def _offer(state: State, view: View, role: Role, room: int) -> tuple[float, Action] | None:
    """The batch of one model with the best ratio, and that ratio."""
    open_ = np.flatnonzero(_open(state, role))
    if not len(open_):
        return None
    if len(open_) > WINDOW:
        open_ = np.sort(open_[np.argsort(-view.score[open_], kind="stable")[:WINDOW]])
    gain = gains(state, view, role, open_)
    cost = state.prices[role][open_]
    best = np.argsort(-gain / cost, kind="stable")[:room]
    least = min(len(best), BATCHES[min(len(state.steps), len(BATCHES) - 1)])
    total, price = np.cumsum(gain[best]), (state.costs.call + np.cumsum(cost[best])) / state.costs.unit
    size = least + int(np.argmax((total / price)[least - 1 :]))
    rows = np.sort(open_[best[:size]])
    return float(total[size - 1] / price[size - 1]), _action(state, role, rows, float(total[size - 1]))


def _open(state: State, role: Role) -> Bool:
    """Which candidates a model may still be asked about."""
    open_ = np.isnan(state.large)
    if role == "small":
        open_ &= np.isnan(state.small) & ~state.facts.flagged
    open_[state.allowed :] = False
    return open_


def _forced(state: State, view: View) -> Places:
    """Flagged candidates that would be shown without the large model's word."""
    if not state.facts.flagged.any() or "large" not in state.costs.tables:
        return np.empty(0, np.intp)
    return np.flatnonzero(state.facts.flagged & (view.place < K) & _open(state, "large"))


def gains(state: State, view: View, role: Role, rows: Places) -> Float64:
    """(len(rows),) expected gain of nDCG@10 from scoring each of these candidates alone."""
    fused = state.facts.fused[rows, None]
    if role == "large":
        chance, probability = view.chance[rows], state.levels
    else:
        chance, probability = _hints(state, view, rows)
    score = _final(state.profile, probability, fused)
    moved = (chance * _moves(view, rows, score, _worth(state.profile, score))).sum(1)
    found = float(view.worth[np.isfinite(state.large)].sum())
    gain: Float64 = np.maximum(moved, 0.0) / (_ideal(view.worth) * (1.0 + state.profile.saturation * found))
    return gain


def _hints(state: State, view: View, rows: Places) -> tuple[Float64, Float64]:
    """(m,) probability of each thing that the small model may say, and (r, m) p after it."""
    belief, predictor = view.belief, state.profile.predictor
    mean, informed = belief.mean[rows], belief.informed[rows]
    left = np.sqrt(np.maximum(belief.spread[rows] ** 2 - informed**2, 0.0))
    after = predictor.chance(mean[:, None] + informed[:, None] * _HINTS, left[:, None])
    return _HINT_CHANCE, (after * state.levels).sum(2)


def _moves(view: View, rows: Places, score: Float64, worth: Float64) -> Float64:
    """(r, m) change of DCG@10 when candidate rows[i] alone gets score[i, j] and is found to be worth[i, j].

    Whoever is overtaken falls by one place and the others behind rise: sums over a stretch of places, by prefix sums.
    """
    order = np.argsort(view.place)
    held, ranked = view.worth[order], -view.score[order]
    discount = np.zeros(len(order) + 2)
    discount[: min(K, len(order) + 2)] = _DISCOUNT[: min(K, len(order) + 2)]
    step = discount[:-2] - discount[1:-1]
    fall = np.concatenate([[0.0], np.cumsum(held * step)])
    rise = np.concatenate([[0.0, 0.0], np.cumsum(held[1:] * step[:-1])])
    place = view.place[rows, None]
    new = np.searchsorted(ranked, -score)
    new -= (new > place).astype(np.intp)
    own = worth * (discount[new] - discount[place])
    others = np.where(new < place, fall[new] - fall[place], rise[new + 1] - rise[place + 1])
    moved: Float64 = own + others
    return moved


def _ideal(worth: Float64) -> float:
    best = np.sort(worth)[::-1][:K]
    return max(1.0, float((best * _DISCOUNT[: len(best)]).sum()))


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


def _top(state: State, view: View) -> Float32:
    """P(among the best 10): that the score, once known, passes the tenth of the others as they stand."""
    score = _final(state.profile, state.levels, state.facts.fused[:, None])
    ranked = np.sort(view.score)[::-1]
    if len(ranked) <= K:
        return np.ones(len(ranked), np.float32)
    bar = np.where(view.place < K, ranked[K], ranked[K - 1])
    passing = np.where(np.isfinite(state.large)[:, None], (view.score >= bar)[:, None], score >= bar[:, None])
    share: Float32 = (view.chance * passing).sum(1).astype(np.float32)
    return share


def _regret(state: State, view: View) -> float:
    if state.profile.blend <= 0 or "large" not in state.costs.tables:
        return 0.0
    return float(gains(state, view, "large", np.flatnonzero(_open(state, "large"))).sum())


def _reasons(state: State, stop: str) -> list[str]:
    unscored = "skipped_confident" if stop in ("worth", "complete", "asked") else "budget_stop"
    known, hinted = np.isfinite(state.large), np.isfinite(state.small)
    named = np.where(known, "escalated", np.where(hinted, "scored_small", unscored)).astype(object)
    named[(known | hinted) & state.cached] = "cached"
    named[state.facts.flagged & known] = "flagged"
    return list(named)
