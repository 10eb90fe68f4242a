"""Two lists become one order: s = w·minmax(dense) + (1 − w)·minmax(sparse). Pure.

The convex combination keeps the distances that ranks throw away (Bruch, Gai, Ingber: "An Analysis of Fusion
Functions for Hybrid Retrieval", TOIS 2023). Min-max runs over the rows of the leg's own list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.contracts import Candidates, Float32, Fusion, Mode
from tenants.scope import TenantScope

DEFAULT_WEIGHT = 0.6


@dataclass(frozen=True, slots=True)
class FusionProfile:
    """What was learned about a corpus.

    `weight` in [0, 1] is the dense leg's share; `source` is labels, corpus or default.
    """

    weight: float = DEFAULT_WEIGHT
    source: str = "default"

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> FusionProfile:
        """Read `release.profile["fusion"]`; what is absent is the default."""
        if not value:
            return cls()
        return cls(weight=float(value["weight"]), source=str(value["source"]))


def profile_of(scope: TenantScope) -> FusionProfile:
    """The profile of the pinned version."""
    return FusionProfile.from_json(scope.release.profile.get("fusion") if scope.release else None)


def fuse(candidates: Candidates, mode: Mode, profile: FusionProfile) -> Fusion:
    """Fuse by the profile's weight; one leg alone (by mode, or because the other failed) is its own order.

    Ties go to the better dense score, then to the earlier row.
    """
    weight, source = _weight(candidates, mode, profile)
    dense = minmax(candidates.dense, candidates.dense_rank > 0)
    sparse = minmax(candidates.sparse, candidates.sparse_rank > 0)
    score = (weight * dense + (1.0 - weight) * sparse).astype(np.float32)
    order = np.lexsort((-candidates.dense, -score)).astype(np.int32)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(1, len(order) + 1, dtype=np.int32)
    return Fusion(score=score, order=order, rank=rank, weight=weight, source=source)


def minmax(score: Float32, listed: np.ndarray[Any, np.dtype[np.bool_]]) -> Float32:
    """(n,) float32 scaled so that the listed rows span [0, 1]; others are clipped to it. Equal scores give 1."""
    if not listed.any():
        return np.zeros_like(score)
    low, high = float(score[listed].min()), float(score[listed].max())
    if high - low < 1e-9:
        return listed.astype(np.float32)
    scaled: Float32 = np.clip((score - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return scaled


def _weight(candidates: Candidates, mode: Mode, profile: FusionProfile) -> tuple[float, str]:
    if mode != "hybrid":
        return (1.0 if mode == "dense" else 0.0), "mode"
    if candidates.legs == ("dense",):
        return 1.0, "mode"
    if candidates.legs == ("sparse",):
        return 0.0, "mode"
    return profile.weight, profile.source
