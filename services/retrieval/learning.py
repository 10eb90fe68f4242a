"""Where the fusion weight comes from: the corpus alone, or a tenant's labelled questions. Pure.

`corpus_profile` looks at a sample of chunks and needs no label. `fit_profile` takes each labelled question's curve,
its metric at every weight of WEIGHTS, and picks the bias and slope with the highest mean over a fixed grid: no
random start, so the same questions give the same profile. `cross_fitted` scores every question with a profile
fitted on the other folds, which is what a fit may claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.retrieval.fusion import BIAS, CODE, SLOPE, FusionProfile

Float64 = npt.NDArray[np.float64]

WEIGHTS: Float64 = np.linspace(0.0, 1.0, 21)
CODE_MARKS = frozenset("(){}[]=;_<>")
CODE_DENSITY = 0.03  # share of a chunk's characters that are CODE_MARKS, from which on it counts as code
MIN_LABELS = 30
FOLDS = 5
_LOGITS = np.linspace(-5.0, 5.0, 41)
_SLOPES = (0.0, 2.0, 5.0, 10.0, 20.0)


def corpus_profile(texts: Sequence[str]) -> FusionProfile:
    """The label-free profile of a corpus, from a sample of its chunks' texts."""
    return FusionProfile(BIAS + CODE * code_share(texts), SLOPE, "corpus" if texts else "default")


def code_share(texts: Sequence[str]) -> float:
    """The share of chunks in which at least CODE_DENSITY of the characters are brackets, `=`, `;`, `_`, `<` or `>`."""
    code = [sum(char in CODE_MARKS for char in text) >= CODE_DENSITY * len(text) for text in texts if text]
    return sum(code) / len(code) if code else 0.0


def fit_profile(curves: Float64, cosines: Float64) -> FusionProfile:
    """The best bias and slope for labelled questions.

    curves (n, len(WEIGHTS)) float64: each question's metric at each weight; cosines (n,) float64: the best cosine
    of its dense list. Of equals the smaller slope wins, then the weight nearer to 1/2. Fewer than MIN_LABELS
    questions decide nothing and give the default.
    """
    if len(curves) < MIN_LABELS:
        return FusionProfile()
    center = float(cosines.mean())
    best = (-math.inf, 0.0, 0.0)
    for slope in _SLOPES:
        for logit in sorted(_LOGITS.tolist(), key=abs):
            value = float(at_weights(curves, sigmoid(logit + slope * (cosines - center))).mean())
            if value > best[0] + 1e-6:
                best = (value, logit - slope * center, slope)
    return FusionProfile(best[1], best[2], "labels")


def cross_fitted(curves: Float64, cosines: Float64, folds: int = FOLDS, seed: int = 0) -> Float64:
    """(n,) float64 metric of each question under the profile that was fitted without its fold."""
    fold = np.random.default_rng(seed).permutation(len(curves)) % folds
    result = np.zeros(len(curves))
    for number in range(folds):
        held = fold == number
        profile = fit_profile(curves[~held], cosines[~held])
        result[held] = at_weights(curves[held], weights(profile, cosines[held]))
    return result


def weights(profile: FusionProfile, cosines: Float64) -> Float64:
    """(n,) float64 dense weight of each question."""
    return sigmoid(profile.bias + profile.slope * cosines)


def at_weights(curves: Float64, weight: Float64) -> Float64:
    """(n,) float64 each question's curve at its own weight, linear between the points of WEIGHTS."""
    place = np.clip(weight, 0.0, 1.0) * (len(WEIGHTS) - 1)
    left = np.minimum(place.astype(np.int64), len(WEIGHTS) - 2)
    part = place - left
    rows = np.arange(len(curves))
    value: Float64 = curves[rows, left] * (1.0 - part) + curves[rows, left + 1] * part
    return value


def sigmoid(value: Float64) -> Float64:
    """1 / (1 + e^−x), without overflow."""
    result: Float64 = 1.0 / (1.0 + np.exp(-np.clip(value, -30.0, 30.0)))
    return result
