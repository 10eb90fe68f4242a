"""How sure the first stage is of its own order, from the scores alone (well under a millisecond). Pure.

`features` describes the two lists' shapes and their agreement; `uncertainty` folds three of them into one number:

    margin     fused score of the best row minus the second (0 … 1; one row alone: 1)
    entropy    of softmax(fused / 0.1) over the ten best rows, divided by log(10) (0 sure … 1 all alike)
    agreement  share of the ten best rows of one leg that stand in the other leg's ten best
    u = (entropy + (1 − margin) + (1 − agreement)) / 3, clipped to [0, 1]

It is a description, not a probability; what it is worth is learned from it by whoever calibrates on it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from services.contracts import Candidates, Fusion, Int32

DEPTH = 10
TEMPERATURE = 0.1


@dataclass(frozen=True, slots=True)
class Features:
    """Each in [0, 1]; see the module's formulas."""

    margin: float
    entropy: float
    agreement: float

    def as_dict(self) -> dict[str, float]:
        """By name, for the audit and for calibration."""
        return asdict(self)


def features(candidates: Candidates, fusion: Fusion) -> Features:
    """Of at least one candidate."""
    best = fusion.score[fusion.order[:DEPTH]].astype(np.float64)
    margin = float(best[0] - best[1]) if len(best) > 1 else 1.0
    share = np.exp((best - best[0]) / TEMPERATURE)
    share /= share.sum()
    entropy = float(-(share * np.log(np.maximum(share, 1e-12))).sum() / np.log(DEPTH))
    return Features(min(margin, 1.0), max(entropy, 0.0), agreement(candidates.dense_rank, candidates.sparse_rank))


def agreement(dense_rank: Int32, sparse_rank: Int32, depth: int = DEPTH) -> float:
    """Overlap of both lists' first `depth` rows over the shorter of the two; 0 when a list is empty."""
    dense = (dense_rank > 0) & (dense_rank <= depth)
    sparse = (sparse_rank > 0) & (sparse_rank <= depth)
    shorter = min(int(dense.sum()), int(sparse.sum()))
    return float((dense & sparse).sum()) / shorter if shorter else 0.0


def uncertainty(candidates: Candidates, fusion: Fusion) -> float | None:
    """In [0, 1], higher = less sure; None without candidates."""
    if not len(fusion.order):
        return None
    found = features(candidates, fusion)
    return min(1.0, max(0.0, (found.entropy + (1.0 - found.margin) + (1.0 - found.agreement)) / 3.0))
