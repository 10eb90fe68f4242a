"""Two lists become one order: s = w·minmax(dense) + (1 − w)·minmax(sparse), w chosen per question. Pure.

The convex combination keeps the distances that ranks throw away (Bruch, Gai, Ingber: "An Analysis of Fusion
Functions for Hybrid Retrieval", TOIS 2023); min-max runs over the rows of the leg's own list. The weight is

    w = σ(bias + slope · best cosine of the dense list)

because an encoder that knows a subject gives its questions a close neighbour, and one that does not falls behind
BM25. Without labels, bias = BIAS + CODE · (share of the corpus that is code): words of a question seldom stand
in code, so BM25 misses what the encoder finds. The three constants come from `benchmarks/fusion.py`, which fits
them on public training questions. With labels, bias and slope are fitted to the tenant's own questions
(`services/retrieval/learning.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from services.contracts import Candidates, Float32, Fusion, Mode
from tenants.scope import TenantScope

VERSION = "minmax-1"  # names the formula in audit records
BIAS = -1.62
CODE = 2.45
SLOPE = 1.07


@dataclass(frozen=True, slots=True)
class FusionProfile:
    """What was learned about a corpus: `bias` and `slope` of the weight; `source` is labels, corpus or default.

    `constant` is the tenant's own wish (`fusion.weight`), whatever was learned; its `source` is configuration.
    """

    bias: float = BIAS
    slope: float = SLOPE
    source: str = "default"
    constant: float | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> FusionProfile:
        """Read `release.profile["fusion"]`; None is the default."""
        return cls(float(value["bias"]), float(value["slope"]), str(value["source"])) if value else cls()

    def to_json(self) -> dict[str, Any]:
        """For `release.profile["fusion"]`."""
        return {"bias": self.bias, "slope": self.slope, "source": self.source}

    def weight(self, best_cosine: float) -> float:
        """The dense leg's share for one question, in [0, 1]."""
        if self.constant is not None:
            return self.constant
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, self.bias + self.slope * best_cosine))))


def profile_of(scope: TenantScope) -> FusionProfile:
    """The profile of the pinned version, or the constant that the tenant's configuration sets."""
    learned = FusionProfile.from_json(scope.release.profile.get("fusion") if scope.release else None)
    wish = scope.config.fusion.weight
    return learned if wish is None else replace(learned, constant=wish, source="configuration")


def fuse(candidates: Candidates, mode: Mode, profile: FusionProfile) -> Fusion:
    """Fuse by the profile's weight; one leg alone (by mode, or because the other failed) is its own order.

    Ties go to the better dense score, then to the earlier row.
    """
    weight, source = _weight(candidates, mode, profile)
    score = blend(candidates, weight)
    order = np.lexsort((-candidates.dense, -score)).astype(np.int32)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(1, len(order) + 1, dtype=np.int32)
    return Fusion(score=score, order=order, rank=rank, weight=weight, source=source)


def blend(candidates: Candidates, weight: float) -> Float32:
    """(n,) float32 fused scores in [0, 1] at one weight."""
    dense = minmax(candidates.dense, candidates.dense_rank > 0)
    sparse = minmax(candidates.sparse, candidates.sparse_rank > 0)
    score: Float32 = (weight * dense + (1.0 - weight) * sparse).astype(np.float32)
    return score


def minmax(score: Float32, listed: npt.NDArray[np.bool_]) -> Float32:
    """(n,) float32 scaled so that the listed rows span [0, 1]; others are clipped to it. Equal scores give 1."""
    if not listed.any():
        return np.zeros_like(score)
    low, high = float(score[listed].min()), float(score[listed].max())
    if high - low < 1e-9:
        return listed.astype(np.float32)
    scaled: Float32 = np.clip((score - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return scaled


def best_cosine(candidates: Candidates) -> float:
    """Of the dense list; 0 when it is empty."""
    return float(candidates.dense.max(initial=0.0, where=candidates.dense_rank > 0))


def _weight(candidates: Candidates, mode: Mode, profile: FusionProfile) -> tuple[float, str]:
    if mode != "hybrid":
        return (1.0 if mode == "dense" else 0.0), "mode"
    if candidates.legs == ("dense",):
        return 1.0, "mode"
    if candidates.legs == ("sparse",):
        return 0.0, "mode"
    return profile.weight(best_cosine(candidates)), profile.source
