"""What scoring one more candidate is worth: beliefs, final scores, places, and the gain of nDCG@10. Pure, vectorised.

The formulas stand in policy.py. Every order is by falling final score, then by the first stage's rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.contracts import Bool, Float32
from services.reranking.facts import Facts, Float64, Role
from services.reranking.predictor import Belief, Prior
from services.reranking.profile import Profile

K = 10

Places = npt.NDArray[np.intp]

# What the small model may say, in deviations of its effect on the mean: middles of seven parts of a logistic.
_HINT_CHANCE = np.array([0.2, 0.3, 0.25, 0.15, 0.06, 0.03, 0.01])
_HINTS = np.array([-1.379, -0.354, 0.288, 0.872, 1.444, 2.057, 3.088])

_DISCOUNT = np.concatenate([1.0 / np.log2(np.arange(2, K + 2)), [0.0]])


@dataclass(frozen=True, slots=True)
class Ground:
    """What does not change within a question; `levels` (m,) float64 opinion of each of the predictor's levels."""

    facts: Facts
    profile: Profile
    prior: Prior
    levels: Float64

    @classmethod
    def of(cls, facts: Facts, profile: Profile) -> Ground:
        """Of at least one candidate."""
        levels = profile.opinion(profile.predictor.levels).astype(np.float64)
        return cls(facts, profile, profile.predictor.prior(facts), levels)


@dataclass(frozen=True, slots=True)
class Ladder:
    """What moving one candidate does to the others, by prefix sums over the places of an order.

    ranked (n,) −score, rising; discount (n + 2,) of each place; fall, rise (n + 1,): what the ones before a place lose
    when each falls by one, gain when each rises by one. `ideal` is the best order's DCG, at least 1.
    """

    ranked: Float64
    discount: Float64
    fall: Float64
    rise: Float64
    ideal: float


@dataclass(frozen=True, slots=True)
class View:
    """What is believed after some logits. (n,) float64: opinion, final score f, worth r; place (n,) 0-based in order.

    known (n,) bool: the large model has spoken; `chance` (n, m) float64: probability of each level of the predictor.
    """

    known: Bool
    belief: Belief
    chance: Float64
    opinion: Float64
    score: Float64
    worth: Float64
    place: Places
    ladder: Ladder


def look(ground: Ground, large: Float32, heard: Mapping[Role, Float64]) -> View:
    """Given the large model's logits (n,), NaN = not scored, and both models' words on the predictor's scales."""
    profile, facts = ground.profile, ground.facts
    belief = profile.predictor.posterior(ground.prior, heard["large"], heard["small"])
    chance = profile.predictor.chance(belief.mean, belief.spread)
    known = np.isfinite(large)
    # In float32, as it is recorded: an audit record then gives the same score to the last bit.
    opinion = (chance * ground.levels).sum(1).astype(np.float32)
    opinion[known] = profile.opinion(large[known])
    score = final_score(profile.blend, opinion, facts.fused).astype(np.float64)
    place = np.empty(len(score), np.intp)
    place[np.lexsort((facts.rank, -score))] = np.arange(len(score))
    worth = (chance * _worth(profile, _final(profile, ground.levels, facts.fused[:, None]))).sum(1)
    worth[known] = _worth(profile, score[known])
    ladder = _ladder(score, worth, place)
    return View(known, belief, chance, opinion.astype(np.float64), score, worth, place, ladder)


def probabilities(ground: Ground, view: View, large: Float32) -> Float32:
    """(n,) calibrated: of the large model's logits (n,), expected where they are NaN."""
    profile = ground.profile
    levels = profile.probability(profile.predictor.levels).astype(np.float64)
    p: Float32 = (view.chance * levels).sum(1).astype(np.float32)
    p[view.known] = profile.probability(large[view.known])
    return p


def final_score(blend: float, opinion: npt.ArrayLike, fused: Float32) -> Float32:
    """(n,) float32: β·o + (1 − β)·fused of the module, computed in float64."""
    o, first = np.asarray(opinion, np.float64), fused.astype(np.float64)
    return np.asarray(blend * o + (1.0 - blend) * first, np.float32)


def _final(profile: Profile, opinion: Float64, fused: Float32) -> Float64:
    value: Float64 = profile.blend * opinion + (1.0 - profile.blend) * fused
    return value


def _worth(profile: Profile, score: Float64) -> Float64:
    slope, bias = profile.worth
    value: Float64 = 1.0 / (1.0 + np.exp(-(slope * score + bias)))
    return value


def gains(ground: Ground, view: View, role: Role, rows: Places) -> Float64:
    """(len(rows),) expected gain of nDCG@10 from scoring each of these candidates alone."""
    fused = ground.facts.fused[rows, None]
    if role == "large":
        chance, opinion = view.chance[rows], ground.levels
    else:
        chance, opinion = _hints(ground, view, rows)
    score = _final(ground.profile, opinion, fused)
    moved = (chance * _moves(view, rows, score, _worth(ground.profile, score))).sum(1)
    found = float(view.worth[view.known].sum())
    gain: Float64 = np.maximum(moved, 0.0) / (view.ladder.ideal * (1.0 + ground.profile.saturation * found))
    return gain


def _hints(ground: Ground, view: View, rows: Places) -> tuple[Float64, Float64]:
    """(m,) probability of each thing that the small model may say, and (r, m) opinions after it."""
    belief, predictor = view.belief, ground.profile.predictor
    mean, informed = belief.mean[rows], belief.informed[rows]
    left = np.sqrt(np.maximum(belief.spread[rows] ** 2 - informed**2, 0.0))
    after = predictor.chance(mean[:, None] + informed[:, None] * _HINTS, left[:, None])
    return _HINT_CHANCE, (after * ground.levels).sum(2)


def _ladder(score: Float64, worth: Float64, place: Places) -> Ladder:
    order = np.argsort(place)
    held, count = worth[order], len(order)
    discount = np.zeros(count + 2)
    discount[: min(K, count + 2)] = _DISCOUNT[: min(K, count + 2)]
    step = discount[:-2] - discount[1:-1]
    fall, rise = np.zeros(count + 1), np.zeros(count + 1)
    np.cumsum(held * step, out=fall[1:])
    np.cumsum(held[1:] * step[:-1], out=rise[2:])
    best = np.sort(worth)[::-1][:K]
    ideal = max(1.0, float((best * _DISCOUNT[: len(best)]).sum()))
    return Ladder(-score[order], discount, fall, rise, ideal)


def _moves(view: View, rows: Places, score: Float64, worth: Float64) -> Float64:
    """(r, m) change of DCG@10 when candidate rows[i] alone gets score[i, j] and is found to be worth[i, j].

    Whoever is overtaken falls by one place and the others behind rise.
    """
    ladder, place = view.ladder, view.place[rows, None]
    new = np.searchsorted(ladder.ranked, -score)
    new -= new > place
    own = worth * (ladder.discount[new] - ladder.discount[place])
    overtaken = ladder.fall[new] - ladder.fall[place]
    moved: Float64 = own + np.where(new < place, overtaken, ladder.rise[new + 1] - ladder.rise[place + 1])
    return moved


def top_chance(ground: Ground, view: View) -> Float32:
    """(n,) float32 P(among the best 10): that the score, once known, passes the tenth of the others as they stand."""
    score = _final(ground.profile, ground.levels, ground.facts.fused[:, None])
    ranked = np.sort(view.score)[::-1]
    if len(ranked) <= K:
        return np.ones(len(ranked), np.float32)
    bar = np.where(view.place < K, ranked[K], ranked[K - 1])
    passing = np.where(view.known[:, None], (view.score >= bar)[:, None], score >= bar[:, None])
    share: Float32 = (view.chance * passing).sum(1).astype(np.float32)
    return share
