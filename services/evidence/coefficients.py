"""Coefficients of the sentence model and of the abstention, with where they come from.

Written by hand as a start; `benchmarks/train_answerer.py` prints fitted ones.
"""

SENTENCE = {
    "bias": -3.0,
    "cosine": 3.0,
    "cosine_gap": 3.0,
    "recall": 1.5,
    "recall_gap": 1.5,
    "context_recall": 1.0,
    "bigrams": 1.0,
    "passage_dense": 1.0,
    "passage_dense_gap": 3.0,
    "passage_score": 1.0,
    "passage_place": 1.0,
    "neighbour_cosine": 0.5,
    "position": 0.5,
    "cue": 0.6,
    "length": 0.5,
    "short": -2.0,
    "heading": -3.0,
    "item": 0.0,
    "code": -0.5,
    "question": -1.5,
}

ABSTENTION = {
    "bias": -4.0,
    "best": 0.5,
    "second": 0.1,
    "third": 0.0,
    "best_cosine": 3.0,
    "best_recall": 1.0,
    "best_cue": 0.2,
    "context_recall": 2.0,
    "evidence_recall": 1.5,
    "rarest_missing": -0.3,
    "top_dense": 3.0,
    "dense_margin": 2.0,
    "agreement": 0.5,
    "best_bigrams": 0.0,
    "top_recall": 0.0,
    "mean_recall": 0.0,
    "focus_recall": 0.0,
    "focus_weight": 0.0,
}
ABSTAIN_BELOW = 0.25
