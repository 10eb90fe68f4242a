"""What the first stage says for free: numbers that need no cross-encoder, well under a millisecond. Pure.

Of a candidate (ROWS)
    fused, dense, sparse   fused score; cosine; BM25 over the best of the list
    depth                  log2(1 + fused rank)
    dense_depth, sparse_depth   log2(1 + rank in the leg's list), of one place behind its end where it is not listed
    both                   1 when both lists hold it
    length                 log2(1 + tokens of the passage)
    gap                    fused score of the best minus its own
    crowd                  mean cosine to the ten best candidates' vectors
    repeats                1 when a better candidate is nearly the same text (cosine ≥ 0.95)
Of the question (QUESTION), lists best first, all scores fused unless named
    margin_1, _5, _10      best minus the 2nd, 6th, 11th
    nqc, smv, wig          deviation of the best 50 over their mean (Shtok et al., TOIS 2012); Σ s·|ln(s / mean)| over
                           it (Tao, Wu, CIKM 2014); mean of the best 5 minus the mean of all (Zhou, Croft, SIGIR 2007)
    entropy                retrieval/uncertainty.py's
    rbo                    rank-biased overlap of the legs, persistence 0.9 (Webber, Moffat, Zobel, TOIS 2010)
    overlap_10, overlap_50 share of the legs' best that they have in common
    dense_first, sparse_first   log2(1 + rank of one leg's first in the other's list)
    cohesion, scatter      mean and deviation of the pairwise cosines of the ten best
    cosine                 of the dense list's best; bm25 ln(1 + best BM25 / words): how rare the matched words are,
                           instead of their idf, which the candidates do not carry
    words                  log2(1 + words of the question); codes share of them with a digit, `_`, `.`, `(` or `::`
A leg that did not answer gives zeros.
"""

from __future__ import annotations

import re

import numpy as np

from services.contracts import Bool, Candidates, Float32, Fusion, Int32
from services.reranking.facts import Facts, Float64
from services.retrieval.uncertainty import agreement, features

ROWS = (
    "fused", "dense", "sparse", "depth", "dense_depth", "sparse_depth", "both", "length", "gap", "crowd", "repeats",
)  # fmt: skip
QUESTION = (
    "margin_1", "margin_5", "margin_10", "nqc", "smv", "wig", "entropy", "rbo", "overlap_10", "overlap_50",
    "dense_first", "sparse_first", "cohesion", "scatter", "cosine", "bm25", "words", "codes",
)  # fmt: skip
BEST = 10
PERSISTENCE = 0.9
REPEAT = 0.95
_CODE = re.compile(r"[0-9_.(]|::")


def facts_of(text: str, candidates: Candidates, fusion: Fusion, flagged: Bool | None = None) -> Facts:
    """Of at least one candidate; `flagged` (n,) bool, none when not given."""
    count = len(fusion.order)
    words = text.split()
    lengths = np.array([_tokens(one.token_ids, one.tokens) for one in candidates.passages], np.float64)
    return Facts(
        question=_question(words, candidates, fusion).astype(np.float32),
        rows=_rows(lengths, candidates, fusion).astype(np.float32),
        fused=fusion.score,
        rank=fusion.rank,
        # A word is about 1.4 tokens; [CLS] and two [SEP] stand around the pair.
        tokens=(lengths + 1.4 * len(words) + 3).astype(np.int32),
        flagged=np.zeros(count, np.bool_) if flagged is None else flagged,
    )


def _tokens(stored: bytes, counted: int) -> int:
    return len(stored) // 4 or counted


def _rows(lengths: Float64, found: Candidates, fusion: Fusion) -> Float64:
    dense_listed, sparse_listed = found.dense_rank > 0, found.sparse_rank > 0
    best = found.vectors[fusion.order[:BEST]]
    alike = found.vectors @ best.T
    ahead = fusion.rank[fusion.order[:BEST]][None, :] < fusion.rank[:, None]
    return np.stack(
        [
            fusion.score,
            found.dense,
            found.sparse / max(float(found.sparse.max(initial=0.0)), 1e-6),
            np.log2(1.0 + fusion.rank),
            _depth(found.dense_rank),
            _depth(found.sparse_rank),
            dense_listed & sparse_listed,
            np.log2(1.0 + lengths),
            fusion.score.max() - fusion.score,
            alike.mean(1),
            ((alike >= REPEAT) & ahead).any(1),
        ],
        axis=1,
    ).astype(np.float64)


def _depth(rank: Int32) -> Float64:
    behind = int(rank.max(initial=0)) + 1
    depth: Float64 = np.log2(1.0 + np.where(rank > 0, rank, behind))
    return depth


def _question(words: list[str], found: Candidates, fusion: Fusion) -> Float64:
    scores = fusion.score[fusion.order].astype(np.float64)
    margins = [scores[0] - scores[min(place, len(scores) - 1)] for place in (1, 5, 10)]
    alike = _pairwise(found.vectors[fusion.order[:BEST]])
    codes = sum(_CODE.search(word) is not None for word in words)
    return np.array(
        [
            *margins,
            *_spread(scores),
            features(found, fusion).entropy,
            overlap_at_all_depths(found.dense_rank, found.sparse_rank),
            agreement(found.dense_rank, found.sparse_rank, 10),
            agreement(found.dense_rank, found.sparse_rank, 50),
            _first(found.dense_rank, found.sparse_rank),
            _first(found.sparse_rank, found.dense_rank),
            alike.mean(),
            alike.std(),
            found.dense.max(initial=0.0, where=found.dense_rank > 0),
            np.log1p(float(found.sparse.max(initial=0.0)) / max(1, len(words))),
            np.log2(1.0 + len(words)),
            codes / max(1, len(words)),
        ],
        dtype=np.float64,
    )


def _spread(scores: Float64) -> tuple[float, float, float]:
    """NQC, SMV, WIG."""
    best = np.maximum(scores[:50], 1e-6)
    mean = float(best.mean())
    smv = float((best * np.abs(np.log(best / mean))).mean()) / mean
    return float(best.std()) / mean, smv, float(scores[:5].mean() - scores.mean())


def _pairwise(vectors: Float32) -> Float64:
    """The cosines of every two different rows; [1] of a single one."""
    count = len(vectors)
    if count < 2:
        return np.ones(1)
    return (vectors @ vectors.T)[np.triu_indices(count, 1)].astype(np.float64)


def _first(of: Int32, among: Int32) -> float:
    """log2(1 + rank in `among` of the first of `of`)."""
    first = np.flatnonzero(of == 1)
    return float(_depth(among)[first[0]]) if len(first) else 0.0


def overlap_at_all_depths(left: Int32, right: Int32) -> float:
    """Rank-biased overlap in [0, 1] of two lists given as ranks (n,), 1-based, 0 = not in it; of their 100 best."""
    depth = min(100, int(max(left.max(initial=0), right.max(initial=0))))
    if not depth:
        return 0.0
    both = (left > 0) & (right > 0)
    later = np.maximum(left[both], right[both])
    common = np.cumsum(np.bincount(later[later <= depth], minlength=depth + 1)[1:])
    weight = PERSISTENCE ** np.arange(depth)
    return float((weight * common / np.arange(1, depth + 1)).sum() / weight.sum())
