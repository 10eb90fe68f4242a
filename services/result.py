"""What an asker gets: CONTRACT's SearchResult and Answer, and their JSON. Pure.

`search_json` and `answer_json` are one to one with the contract's objects; a number that does not exist (a
leg that does not hold the chunk, a cross-encoder that did not run) is null, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from services.contracts import (
    Caller,
    Candidates,
    Citation,
    Degradation,
    Draft,
    Evidence,
    Fusion,
    Passage,
    Question,
    Ranked,
)
from services.timing import Stopwatch
from tenants.ids import QueryId
from tenants.scope import TenantScope

EXTRACTIVE = "extractive"  # the answerer that is always there
_LEGS = {"hybrid": ("dense", "sparse"), "dense": ("dense",), "sparse": ("sparse",)}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question up to the answerer; `evidence` is what the asker (and the answerer) is shown."""

    query_id: QueryId
    at_ms: int
    question: Question
    scope: TenantScope
    caller: Caller
    candidates: Candidates
    fusion: Fusion
    ranked: Ranked
    evidence: Evidence
    watch: Stopwatch


@dataclass(frozen=True, slots=True)
class Hit:
    """One result. `score` is what the list is sorted by; `scores` and `ranks` say where it came from.

    `why` has the explaining fields when the asker wants them.
    """

    rank: int
    passage: Passage
    score: float
    scores: Mapping[str, float | None]
    ranks: Mapping[str, int | None]
    why: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`results` best first; `timings_ms` by stage, and `total` from the question to this value."""

    query_id: str
    index_version: int
    results: tuple[Hit, ...]
    ranked: Ranked
    candidates: int
    degraded: tuple[Degradation, ...]
    timings_ms: Mapping[str, float]
    variant: str | None = None
    explain: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`search.results` are the passages that the answerer was shown."""

    search: SearchResult
    draft: Draft


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One server-sent event: `name` as in the contract (evidence, token, citation, answer), `data` its JSON."""

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)


def hits(prepared: Prepared) -> tuple[Hit, ...]:
    """The shown passages with every score and rank they got on the way."""
    shown = prepared.evidence
    return tuple(
        _hit(prepared, place, row, score)
        for place, (row, score) in enumerate(zip(shown.rows, shown.scores, strict=True), start=1)
    )


def _hit(prepared: Prepared, place: int, row: int, score: float) -> Hit:
    found, fusion, ranked = prepared.candidates, prepared.fusion, prepared.ranked
    dense_rank, sparse_rank = int(found.dense_rank[row]), int(found.sparse_rank[row])
    scores = {
        "dense": _number(found.dense[row]),
        "sparse": _number(found.sparse[row]) if sparse_rank else None,
        "fused": _number(fusion.score[row]),
        "rerank": _number(ranked.rerank[row]),
        "probability": _number(ranked.probability[row]),
    }
    ranks = {"dense": dense_rank or None, "sparse": sparse_rank or None, "fused": int(fusion.rank[row])}
    why = None
    if prepared.question.explain:
        legs = [leg for leg, rank in (("dense", dense_rank), ("sparse", sparse_rank)) if rank]
        why = {"legs": legs, "dense_weight": fusion.weight, "heading": found.passages[row].heading}
        if (trace := ranked.trace) is not None:
            why |= {"decision": trace.verdict.reasons[row], "top": _number(trace.verdict.top[row])}
            why |= {"flags": trace.flags.reasons[row]}
    return Hit(place, found.passages[row], score, scores, ranks, why)


def degradations(prepared: Prepared, draft: Draft | None) -> tuple[Degradation, ...]:
    """Every word of the contract's list that holds for this question, once, in the order of the line."""
    words: list[Degradation] = []
    if prepared.scope.release is not None and set(_LEGS[prepared.question.mode]) - set(prepared.candidates.legs):
        words.append("partial_candidates")
    if prepared.candidates.unsearched:
        words.append("partial_candidates")
    words.extend(prepared.ranked.degraded)
    words.extend(draft.degraded if draft else ())
    if draft and draft.generator == EXTRACTIVE and _wants_generator(prepared):
        words.append("generator_unavailable")
    return tuple(dict.fromkeys(words))


def _wants_generator(prepared: Prepared) -> bool:
    return (prepared.question.generator or prepared.scope.config.generator) not in (EXTRACTIVE, "auto")


def _number(value: np.float32) -> float | None:
    """The shortest decimal that reads back as the same float32; NaN, which JSON cannot say, is None."""
    return None if np.isnan(value) else float(str(value))


def search_json(result: SearchResult) -> dict[str, Any]:
    """CONTRACT section 3, SearchResult; `explain` only when it was asked for."""
    body: dict[str, Any] = {
        "query_id": result.query_id,
        "index_version": result.index_version,
        "results": [hit_json(hit) for hit in result.results],
        "rerank": rerank_json(result.ranked, result.candidates),
        "degraded": list(result.degraded),
        "variant": result.variant,
        "timings_ms": {stage: round(spent, 2) for stage, spent in result.timings_ms.items()},
    }
    if result.explain is not None:
        body["explain"] = dict(result.explain)
    return body


def answer_json(answer: Answer) -> dict[str, Any]:
    """CONTRACT section 3, Answer."""
    draft = answer.draft
    return search_json(answer.search) | {
        "answer": draft.answer,
        "grounded": draft.grounded,
        "generator": draft.generator,
        "citations": [citation_json(citation) for citation in draft.citations],
        "conflicts": [asdict(note) | {"between": list(note.between)} for note in draft.conflicts],
        "usage": {"prompt_tokens": draft.prompt_tokens, "completion_tokens": draft.completion_tokens},
        "finish_reason": "length" if draft.cut else "stop",
    }


def hit_json(hit: Hit) -> dict[str, Any]:
    """One element of `results`."""
    passage = hit.passage
    body: dict[str, Any] = {
        "rank": hit.rank,
        "chunk_id": passage.chunk_id,
        "document_id": passage.document_id,
        "collection": passage.collection,
        "title": passage.title,
        "text": passage.text,
        "span": asdict(passage.span),
        "score": hit.score,
        "scores": dict(hit.scores),
        "ranks": dict(hit.ranks),
        "metadata": dict(passage.metadata),
    }
    if hit.why is not None:
        body["why"] = dict(hit.why)
    return body


def citation_json(citation: Citation) -> dict[str, Any]:
    """One element of `citations`."""
    return asdict(citation)


def rerank_json(ranked: Ranked, candidates: int) -> dict[str, Any]:
    """The `rerank` block: what was decided and why, and what it cost."""
    return {
        "decision": ranked.decision,
        "reason": ranked.reason,
        "uncertainty": None if ranked.uncertainty is None else round(ranked.uncertainty, 4),
        "pairs": ranked.pairs,
        "pairs_cached": ranked.pairs_cached,
        "candidates": candidates,
        "model": ranked.model,
        "certificate": ranked.certificate,
    }
