"""What is lost by not reranking everything: three losses in [0, 1] of an order against the full rerank's. Pure.

    regret    positive part of nDCG@k(full rerank) − nDCG@k(policy), with labels
    evidence  share of the full rerank's evidence set (its first `size` relevant rows) that the policy does not show
    fidelity  1 − DCG@k(policy) / DCG@k(best order); needs no labels. Gains are the probabilities of relevance that
              the full rerank's final scores stand for (profile.py's worth), so the full rerank itself loses nothing

Orders are row numbers, best first; gains are (n,) by row, ≥ 0 and linear as in jobs/evaluation/metrics.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
K = 10


def ndcg(order: npt.ArrayLike, gains: npt.ArrayLike, best: float | None = None, k: int = K) -> float:
    """In [0, 1]; `best` is the DCG to divide by, the best order's of these rows unless given. 0 without a gain.

    Give `best` where relevant documents exist that are not among the rows: missing them must count.
    """
    by_row = np.asarray(gains, np.float64)
    ideal = ideal_dcg(by_row, k) if best is None else best
    return dcg(by_row[np.asarray(order, np.int64)], k) / ideal if ideal > 0 else 0.0


def dcg(gains: npt.ArrayLike, k: int = K) -> float:
    """Σ gain_i / log2(i + 1) over the first k of gains in ranked order."""
    shown = np.asarray(gains, np.float64)[:k]
    return float(shown @ (1.0 / np.log2(np.arange(2, len(shown) + 2))))


def ideal_dcg(gains: npt.ArrayLike, k: int = K) -> float:
    """DCG of the gains in their best order."""
    return dcg(np.sort(np.asarray(gains, np.float64))[::-1], k)


def regret(policy: float, reference: float) -> float:
    """Of two nDCG values."""
    return min(1.0, max(0.0, reference - policy))


def fidelity_loss(order: npt.ArrayLike, probability: npt.ArrayLike, k: int = K) -> float:
    """`probability` (n,) of every row under the full rerank; 0 when nothing is probable at all."""
    gains = np.asarray(probability, np.float64)
    ideal = ideal_dcg(gains, k)
    return min(1.0, max(0.0, 1.0 - ndcg(order, gains, ideal, k))) if ideal > 0 else 0.0


def evidence_miss(order: npt.ArrayLike, reference: npt.ArrayLike, relevant: npt.ArrayLike, size: int) -> float:
    """`relevant` (n,) bool by row; 0 when the full rerank shows no relevant row among its first `size` either."""
    good = np.asarray(relevant, bool)
    wanted = {row for row in np.asarray(reference)[:size].tolist() if good[row]}
    shown = set(np.asarray(order)[:size].tolist())
    return len(wanted - shown) / len(wanted) if wanted else 0.0
