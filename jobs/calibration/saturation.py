"""How much less probable other candidates are once relevant ones were found: κ of services/reranking/profile.py. Pure.

A probability that is right over all pairs is too high for the pairs of a question whose answer is already known:
most questions have few relevant passages. For every labelled question and each prefix of its first stage, with
F = Σ r of the prefix and R = Σ r of the rest (r the probability that the final score stands for), the relevant ones
of the rest are taken as Poisson with mean c·R / (1 + κF). κ is the likeliest of GRID, c is free.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jobs.calibration.logs import Logged
from services.reranking.profile import Profile
from services.reranking.valuation import final_score

PREFIXES = (3, 5, 10, 20)
GRID = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)

Float64 = npt.NDArray[np.float64]


def saturation(log: Sequence[Logged], profile: Profile) -> float:
    """κ by the labels; what the profile has when no question is labelled."""
    rows = [row for one in log if one.labelled for row in _prefixes(one, profile)]
    if not rows:
        return profile.saturation
    found, rest, true = np.array(rows, np.float64).T
    likelihoods = [_likelihood(rest / (1.0 + kappa * found), true) for kappa in GRID]
    return GRID[int(np.argmax(likelihoods))]


def _prefixes(one: Logged, profile: Profile) -> list[tuple[float, float, float]]:
    """(F, R, relevant ones of the rest) per prefix."""
    assert one.grades is not None
    opinion = profile.opinion(one.logits["large"])
    known = np.isfinite(opinion)
    slope, bias = profile.worth
    score = final_score(profile.blend, np.where(known, opinion, 0.0), one.facts.fused).astype(np.float64)
    worth = np.where(known, 1.0 / (1.0 + np.exp(-(slope * score + bias))), 0.0)
    right, first = known & (one.grades > 0), [one.facts.rank <= depth for depth in PREFIXES]
    return [(float(worth[head].sum()), float(worth[~head].sum()), float(right[~head].sum())) for head in first]


def _likelihood(mean: Float64, true: Float64) -> float:
    """Poisson's, without its constant, at the best common factor."""
    scale = true.sum() / max(float(mean.sum()), 1e-9)
    if scale <= 0:
        return 0.0
    return float((true * np.log(np.maximum(scale * mean, 1e-12))).sum() - scale * mean.sum())
