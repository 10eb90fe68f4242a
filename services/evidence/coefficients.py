"""Coefficients of the sentence model and of the abstention: fitted, not chosen.

Fitted on 2026-11-23 by the functions of `benchmarks/train_answerer.py` on training parts only: 350 questions of
SQuAD 1.1 (CC BY-SA 4.0; 45 titles, none of the held-out tenth), 300 of PubMedQA (MIT), 100 of MedQuAD (CC BY 4.0),
each with its unanswerable twin. The command prints this file anew; figures on what was held out:
`benchmarks/answers.py`.
"""

SENTENCE = {
    "bias": -11.65,
    "cosine": 2.243,
    "cosine_gap": 1.808,
    "recall": 0.9862,
    "recall_gap": 0.5948,
    "context_recall": 2.864,
    "bigrams": 0.9636,
    "passage_dense": 3.236,
    "passage_dense_gap": 3.303,
    "passage_score": 3.627,
    "passage_place": 0.1488,
    "neighbour_cosine": 0.3524,
    "position": -0.06732,
    "cue": 0.382,
    "length": 2.475,
    "short": -0.7039,
    "question": -0.9929,
}

ABSTENTION = {
    "bias": -5.46,
    "best": 0.3083,
    "second": 0.03757,
    "third": -0.1006,
    "best_cosine": 4.019,
    "best_recall": -0.07969,
    "best_cue": 0.2343,
    "context_recall": 0.459,
    "evidence_recall": -0.4988,
    "rarest_missing": -0.05667,
    "top_dense": 1.981,
    "dense_margin": 5.497,
    "agreement": -0.04824,
    "best_bigrams": -0.1047,
    "top_recall": 2.524,
    "mean_recall": -3.818,
    "focus_recall": 1.465,
    "focus_weight": 0.1106,
}
ABSTAIN_BELOW = 0.0770  # passed by 99% of the answerable training questions

# Of questions that were reranked: `benchmarks/abstention.py` of 2026-11-26 on 600 training questions and their twins,
# with the pooled calibration of the cross-encoders that ship; it prints both.
RERANKED = {
    "bias": -2.647,
    "best": 0.4459,
    "second": -0.02428,
    "third": -0.0706,
    "best_cosine": 2.547,
    "best_recall": -0.756,
    "best_cue": -0.1358,
    "context_recall": 0.3118,
    "evidence_recall": 0.8362,
    "rarest_missing": 0.0827,
    "top_dense": -2.28,
    "dense_margin": 5.623,
    "agreement": 0.2831,
    "best_bigrams": -0.5821,
    "top_recall": 1.423,
    "mean_recall": -0.7712,
    "focus_recall": 0.9664,
    "focus_weight": 0.2229,
    "score_1": 0.2921,
    "score_2": -0.1433,
    "score_3": -0.2296,
    "score_4": -0.1666,
    "score_5": 0.04677,
    "score_6": 0.2616,
    "score_7": 0.02006,
    "score_8": 0.1505,
    "mass": 0.08161,
    "scored": 0.1941,
}
RERANKED_BELOW = 0.1268  # refuses at most 5% of answerable questions, at 90% confidence
