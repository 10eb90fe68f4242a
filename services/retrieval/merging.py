"""Candidates of several corpora → one list, as if one corpus had given it. Pure.

The corpora share an embedder, so their cosines are one scale. BM25 is not: a word's weight grows with the size of the
corpus that it is rare in. Each corpus's scores are therefore brought to the scale of the largest one, by the weight of
a word that stands in a single chunk:

    factor = idf₁(largest) / idf₁(N),  idf₁(N) = ln(1 + (N − 1 + ½) / (1 + ½))      (Lucene's idf at df = 1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from services.contracts import Candidates, Float32, Int32


def merged(corpora: Sequence[tuple[Candidates, int]], depth: int) -> Candidates:
    """One list of both legs, each cut at `depth`, rows in the order of chunk ids.

    `corpora` are (candidates, chunks of the corpus). Query vector and legs are those of the first.
    """
    parts, chunks = [part for part, _ in corpora], [size for _, size in corpora]
    if len(parts) == 1:
        return parts[0]
    largest = _rarest(max(chunks))
    sparse = np.concatenate([part.sparse * (largest / _rarest(size)) for part, size in zip(parts, chunks, strict=True)])
    dense = np.concatenate([part.dense for part in parts])
    dense_rank = _ranks(dense, np.concatenate([part.dense_rank for part in parts]), depth)
    sparse_rank = _ranks(sparse, np.concatenate([part.sparse_rank for part in parts]), depth)
    passages = [passage for part in parts for passage in part.passages]
    kept = np.flatnonzero((dense_rank > 0) | (sparse_rank > 0))
    kept = np.array(sorted(kept.tolist(), key=lambda row: passages[row].chunk_id), np.int64)
    return replace(
        parts[0],
        passages=tuple(passages[row] for row in kept.tolist()),
        dense=dense[kept],
        sparse=np.where(sparse_rank > 0, sparse, 0.0).astype(np.float32)[kept],
        dense_rank=dense_rank[kept],
        sparse_rank=sparse_rank[kept],
        vectors=np.concatenate([part.vectors for part in parts])[kept],
        timings_ms=_slowest([part.timings_ms for part in parts]),
    )


def _rarest(chunks: int) -> float:
    return math.log(1.0 + (max(chunks, 1) - 0.5) / 1.5)


def _ranks(score: Float32, before: Int32, depth: int) -> Int32:
    """New 1-based ranks of the rows that were listed, best score first, ties by the earlier rank; 0 = not listed."""
    ranks = np.zeros(len(score), np.int32)
    listed = np.flatnonzero(before > 0)
    best = listed[np.lexsort((before[listed], -score[listed]))][:depth]
    ranks[best] = np.arange(1, len(best) + 1, dtype=np.int32)
    return ranks


def _slowest(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The parts ran side by side."""
    return {name: max(part.get(name, 0.0) for part in times) for part in times for name in part}
