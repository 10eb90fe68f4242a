"""Answerable questions and their unanswerable twins, reranked: what the abstention on calibrated scores is fitted on.

A twin is the same question asked of the corpus without its relevant documents. One `Probe` keeps what both models
need, so that calibration, β and the number of scored candidates can be chosen afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.evaluation.answers import Asked, measuring_scope
from jobs.evaluation.memory_index import MemoryIndex
from services.contracts import Candidates, Float32, Fusion, Passage, Question, Ranked
from services.embedding.encoder import Encoder
from services.evidence.abstention import evidence_features, score_features
from services.evidence.scoring import features, logits, sentences, wanted
from services.evidence.selection import select
from services.reranking.calibration import Calibration
from services.retrieval.fusion import FusionProfile, fuse

Score = Callable[[str, Sequence[Passage]], Float32]


@dataclass(frozen=True, slots=True)
class Probe:
    """One question or its twin. logits (n,) raw, NaN beyond the depth; relevant (n,) bool."""

    text: str
    candidates: Candidates
    fusion: Fusion
    logits: Float32
    relevant: Float32
    twin: bool


async def probe(index: MemoryIndex, encoder: Encoder, score: Score, asked: Asked, depth: int, *, twin: bool) -> Probe:
    """Retrieve, fuse, score the best `depth`; a twin's relevant documents are hidden."""
    index.without = asked.gold if twin else ()
    candidates = await index.retrieve(measuring_scope("builtin", encoder.dimension), Question(asked.text))
    fusion = fuse(candidates, "hybrid", FusionProfile())
    found = np.full(len(candidates.passages), np.nan, np.float32)
    rows = fusion.order[:depth]
    found[rows] = score(asked.text, [candidates.passages[row] for row in rows.tolist()])
    gold = np.array([one.document_id in asked.gold for one in candidates.passages], np.float32)
    return Probe(asked.text, candidates, fusion, found, gold, twin)


def row_of(one: Probe, encoder: Encoder, calibration: Calibration, blend: float, scored: int) -> Float32 | None:
    """RERANKED_FEATURES as if only the `scored` best fused candidates had been scored; None when nothing is shown."""
    known = np.where(one.fusion.rank <= scored, one.logits, np.nan).astype(np.float32)
    p = calibration.probability(known)
    ranked = _ranked(one, known, p, calibration.opinion(known), blend)
    question, scope = Question(one.text), measuring_scope("builtin", encoder.dimension)
    evidence = select(question, scope, one.candidates, ranked)
    want = wanted(one.text, one.candidates)
    found = sentences(evidence, want)
    if not found or not evidence.probabilities:
        return None
    table = features(want, found, encoder.encode([each.head for each in found]), evidence, one.candidates)
    values = evidence_features(want, found, table, logits(table), evidence, one.candidates)
    return np.concatenate([values, score_features(evidence.probabilities)])


def certified_threshold(answerable: Sequence[float], refused: float, confidence: float) -> float:
    """The highest threshold below which at most a share `refused` of answerable questions lies, at `confidence`.

    Learn then Test from below over the sorted scores, p-values of the binomial: refusing the k lowest of n is safe
    when P(Bin(n, refused) ≤ k) ≤ 1 − confidence. 0 when not even refusing none is.
    """
    scores = np.sort(np.asarray(answerable, np.float64))
    safe = -1
    while safe + 1 < len(scores) and _at_most(safe + 1, len(scores), refused) <= 1 - confidence:
        safe += 1
    return float(scores[safe]) if safe >= 0 else 0.0


def _at_most(count: int, trials: int, chance: float) -> float:
    """P(Bin(trials, chance) ≤ count)."""
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(chance)
        + (trials - k) * math.log1p(-chance)
        for k in range(count + 1)
    ]
    return math.fsum(math.exp(one) for one in logs)


def _ranked(one: Probe, known: Float32, p: Float32, opinion: Float32, blend: float) -> Ranked:
    final = blend * np.nan_to_num(opinion, nan=0.0) + (1 - blend) * one.fusion.score
    order = np.lexsort((one.fusion.rank, -final)).astype(np.int32)
    return Ranked(order, final.astype(np.float32), known, p, "partial", "", None)
