"""Whether the evidence answers at all: a linear model over the best sentences and the lists' shape. Pure numpy.

probability = 1 / (1 + exp(−(features · weights + bias))); below the threshold the answerer declines. Weights
and thresholds were fitted on answerable questions and their unanswerable twins (the same question, its relevant
passages removed from the corpus); they stand in coefficients.py.

A question that a cross-encoder looked at gets a model of its own (`benchmarks/abstention.py`), which also sees the
*sorted* calibrated scores: the shape of the whole list says more than its maximum, deviation or margin
(arXiv 2402.12997). That command fits its weights and certifies its threshold: with 90 % confidence at most 5 % of what
can be answered is refused. The coefficients that stand in coefficients.py give the scores no weight yet, so a reranked
question is judged by the same features and the same threshold as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from services.contracts import Candidates, Evidence, Float32
from services.evidence.coefficients import ABSTAIN_BELOW, ABSTENTION, RERANKED, RERANKED_BELOW
from services.evidence.scoring import FEATURES, Sentence, Wanted
from services.evidence.text import content

ABSTENTION_FEATURES = (
    "best",  # log-odds of the best, second and third best sentence
    "second",
    "third",
    "best_cosine",  # highest cosine of any sentence
    "best_recall",  # of the best sentence
    "best_cue",
    "context_recall",  # of the best sentence with what stands around it
    "evidence_recall",  # of all evidence together
    "rarest_missing",  # highest idf of a question's term that the best sentence's passage lacks, 0 = none
    "top_dense",  # cosine of the best passage
    "dense_margin",  # of the best passage over the fifth best
    "agreement",  # 1 when both legs have the same first chunk, else 0
    "best_bigrams",  # of the best sentence
    "top_recall",  # highest and mean recall of the shown passages, titles included
    "mean_recall",
    "focus_recall",  # of the question's terms that its best passage's title lacks, around the best sentence
    "focus_weight",  # idf of those terms / 10
)
PLACES = 8
RERANKED_FEATURES = (
    *ABSTENTION_FEATURES,
    *(f"score_{place}" for place in range(1, PLACES + 1)),  # log-odds of the best calibrated scores, falling
    "mass",  # log of their sum: relevant passages to be expected
    "scored",  # log2(1 + candidates that were scored)
)
_NOTHING = -8.0  # log-odds of a sentence that is not there
_LEAST, _UNSCORED = -8.0, -4.0  # log-odds: no score says less; a place beyond the scored ones


def evidence_features(
    want: Wanted,
    found: Sequence[Sentence],
    table: Float32,
    logit: Float32,
    evidence: Evidence,
    candidates: Candidates,
) -> Float32:
    """(len(ABSTENTION_FEATURES),) float32; `table` and `logit` as `scoring` gives them, at least one sentence."""
    order = np.argsort(-logit, kind="stable")
    best = int(order[0])
    ranked = [float(logit[row]) for row in order[:3]] + [_NOTHING] * max(0, 3 - len(order))
    column = {name: float(table[best, place]) for place, name in enumerate(FEATURES)}
    passages = [frozenset(content(f"{one.title} {one.heading} {one.text}")) for one in evidence.passages]
    recalls = [want.recall(terms) for terms in passages]
    focus = want.without(frozenset(content(evidence.passages[found[best].place].title)))
    dense = np.sort(candidates.dense)[::-1]
    values = (
        *ranked,
        float(table[:, FEATURES.index("cosine")].max()),
        column["recall"],
        column["cue"],
        column["context_recall"],
        want.recall(frozenset().union(*(one.context for one in found))),
        want.without(passages[found[best].place]).heaviest(),
        float(dense[0]),
        float(dense[0] - dense[min(4, len(dense) - 1)]),
        float(np.any((candidates.dense_rank == 1) & (candidates.sparse_rank == 1))),
        column["bigrams"],
        max(recalls),
        sum(recalls) / len(recalls),
        focus.recall(found[best].context) if focus.terms else 1.0,
        float(focus.idf.sum()) / 10,
    )
    return np.array(values, dtype=np.float32)


def score_features(probabilities: Sequence[float]) -> Float32:
    """(PLACES + 2,) float32 of at least one calibrated probability, falling: what RERANKED_FEATURES adds."""
    p = np.clip(np.asarray(probabilities, np.float64), 1e-9, 1 - 1e-9)
    odds = np.clip(np.log(p) - np.log1p(-p), _LEAST, -_LEAST)[:PLACES]
    beyond = np.full(PLACES - len(odds), min(float(odds[-1]), _UNSCORED))
    return np.array([*odds, *beyond, np.log(p.sum()), np.log2(1 + len(p))], dtype=np.float32)


def answerable(values: Float32, probabilities: Sequence[float] = ()) -> float:
    """Probability in [0, 1] that the evidence answers; `probabilities` are the evidence's, () = not reranked."""
    if probabilities:
        return _probability(RERANKED, RERANKED_FEATURES, np.concatenate([values, score_features(probabilities)]))
    return _probability(ABSTENTION, ABSTENTION_FEATURES, values)


def declines(probability: float, *, reranked: bool = False) -> bool:
    """True when the answerer should say that the evidence does not answer."""
    return probability < (RERANKED_BELOW if reranked else ABSTAIN_BELOW)


def _probability(model: Mapping[str, float], names: Sequence[str], values: Float32) -> float:
    weights = np.array([model[name] for name in names], dtype=np.float32)
    return float(1 / (1 + np.exp(-(float(values @ weights) + model["bias"]))))
