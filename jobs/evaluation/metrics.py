"""Rank metrics: nDCG@k, recall@k, MRR@k, MAP@k. Pure.

A run is {query: {document: score}}, judgements are {query: {document: grade}} with grade > 0 relevant. Documents are
put in the order of falling score, equal scores in the order of falling document id: what trec_eval does, so that
figures can be compared. A query without a run counts 0; a query without a relevant document counts 0.

    nDCG@k    Σ_{i≤k} grade_i / log2(i + 1), over the same sum of the ideal order (trec_eval)
    recall@k  relevant documents among the first k, over all relevant ones
    MRR@k     1 / rank of the first relevant document, 0 when it is not among the first k
    MAP@k     mean over all relevant documents of the precision at their rank, 0 for those below k
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Run = Mapping[str, Mapping[str, float]]
Judgements = Mapping[str, Mapping[str, int]]


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Documents, best first; equal scores by falling id, as trec_eval breaks ties."""
    return sorted(sorted(scores, reverse=True), key=lambda document: -scores[document])


def ndcg(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """See the module; negative grades gain nothing."""
    gains = np.array([max(grades.get(document, 0), 0) for document in ranked[:k]], np.float64)
    ideal = np.array(sorted((max(grade, 0) for grade in grades.values()), reverse=True)[:k], np.float64)
    best = float(ideal @ _discounts(len(ideal)))
    return float(gains @ _discounts(len(gains))) / best if best > 0 else 0.0


def recall(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """See the module."""
    relevant = {document for document, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranked[:k])) / len(relevant) if relevant else 0.0


def mrr(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """See the module."""
    return next((1.0 / rank for rank, name in enumerate(ranked[:k], 1) if grades.get(name, 0) > 0), 0.0)


def average_precision(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """See the module."""
    relevant = sum(grade > 0 for grade in grades.values())
    hits = np.array([grades.get(document, 0) > 0 for document in ranked[:k]], np.float64)
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(precision @ hits) / relevant if relevant else 0.0


METRICS: Mapping[str, Callable[[Sequence[str], Mapping[str, int], int], float]] = {
    "ndcg": ndcg,
    "recall": recall,
    "mrr": mrr,
    "map": average_precision,
}


def per_query(run: Run, judgements: Judgements, name: str, k: int) -> dict[str, float]:
    """One value per judged query; `name` is a key of METRICS."""
    metric = METRICS[name]
    return {query: metric(ranking(run.get(query, {})), grades, k) for query, grades in judgements.items()}


def mean(run: Run, judgements: Judgements, name: str, k: int) -> float:
    """The mean of `per_query`; 0 without queries."""
    values = per_query(run, judgements, name, k)
    return float(np.mean(list(values.values()))) if values else 0.0


def _discounts(count: int) -> Float64:
    """1 / log2(i + 1) for ranks i = 1 … count."""
    discounts: Float64 = 1.0 / np.log2(np.arange(2, count + 2, dtype=np.float64))
    return discounts
