"""What one question leaves behind: enough to say why each candidate was shown or not, and to redo the order. Pure.

Facts hold ids, digests and figures; a text goes beside them (contracts.AuditText), so that it can be erased.
Candidates are columns, best first, float32 in the shortest decimals that read back the same bits: `fused` follows
from `dense`, `sparse`, their ranks and the weight by retrieval/fusion.py, so the order can be replayed.

reasons: cited | shown | and selection.py's: rank, group_by, duplicate, document_cap, token_budget
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from services.contracts import AuditRecord, AuditText, Degradation, Draft, Float32, Question
from services.result import Prepared, rerank_json
from services.retrieval.uncertainty import features
from tenants.ids import text_digest

FORMAT = 1


def query_record(prepared: Prepared, draft: Draft | None, state: str, degraded: Sequence[Degradation]) -> AuditRecord:
    """The record of a search (`draft` None) or an answer; `state` is complete or streaming."""
    scope, caller = prepared.scope, prepared.caller
    facts = {
        "format": FORMAT,
        "query_id": prepared.query_id,
        "request_id": caller.request_id,
        "key_id": caller.key_id,
        "tenant": scope.tenant,
        "at": datetime.fromtimestamp(prepared.at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "state": state,
        "index_version": scope.index_version,
        "question": _question(prepared.question),
        "fusion": {"weight": prepared.fusion.weight, "source": prepared.fusion.source},
        "features": features(prepared.candidates, prepared.fusion).as_dict() if len(prepared.fusion.order) else {},
        "rerank": rerank_json(prepared.ranked, len(prepared.candidates.passages)),
        "candidates": _candidates(prepared, draft),
        "evidence": [passage.chunk_id for passage in prepared.evidence.passages],
        "answer": _answer(draft) if draft else None,
        "degraded": list(degraded),
        "variant": None,
        "timings_ms": {stage: round(spent, 2) for stage, spent in prepared.watch.read().items()},
    }
    sources = [passage.document_id for passage in prepared.evidence.passages] if draft else []
    return AuditRecord(prepared.query_id, prepared.at_ms, facts, _texts(prepared, draft), tuple(sources))


def _question(question: Question) -> dict[str, Any]:
    """How was asked; what was asked is a text, and the filter's values are private: its digest stands for them."""
    asked = asdict(question)
    for private in ("text", "session", "user"):
        del asked[private]
    tree = asked.pop("filter")
    return asked | {"filter_digest": None if tree is None else text_digest(json.dumps(tree, sort_keys=True))}


def _candidates(prepared: Prepared, draft: Draft | None) -> dict[str, list[Any]]:
    found, fusion, ranked = prepared.candidates, prepared.fusion, prepared.ranked
    order = ranked.order.tolist()
    passages = [found.passages[row] for row in order]
    shown = {passage.chunk_id for passage in prepared.evidence.passages}
    cited = {citation.chunk_id for citation in draft.citations} if draft else set()
    return {
        "chunk_id": [passage.chunk_id for passage in passages],
        "document_id": [passage.document_id for passage in passages],
        "dense": _floats(found.dense, order),
        "sparse": _floats(found.sparse, order),
        "dense_rank": found.dense_rank[order].tolist(),
        "sparse_rank": found.sparse_rank[order].tolist(),
        "fused": _floats(fusion.score, order),
        "fused_rank": fusion.rank[order].tolist(),
        "reason": [
            "cited" if one in cited else "shown" if one in shown else prepared.evidence.dropped.get(one, "rank")
            for one in (passage.chunk_id for passage in passages)
        ],
    }


def _floats(values: Float32, order: list[int]) -> list[float]:
    return [float(text) for text in values[order].astype(str).tolist()]


def _answer(draft: Draft) -> dict[str, Any]:
    spans = ("marker", "chunk_id", "document_id", "char_start", "char_end", "answer_start", "answer_end")
    return {
        "generator": draft.generator,
        "grounded": draft.grounded,
        "abstain_score": draft.abstain_score,
        "citations": [{name: getattr(citation, name) for name in spans} for citation in draft.citations],
        "conflicts": [asdict(note) for note in draft.conflicts],
        "usage": {"prompt_tokens": draft.prompt_tokens, "completion_tokens": draft.completion_tokens},
    }


def _texts(prepared: Prepared, draft: Draft | None) -> tuple[AuditText, ...]:
    question = prepared.question
    texts = [AuditText("query", question.text)]
    texts += [AuditText(slot, text) for slot, text in (("session", question.session), ("user", question.user)) if text]
    if draft is not None:
        texts.append(AuditText("answer", draft.answer))
        texts += [AuditText(f"quote.{cite.marker}", cite.quote, cite.document_id) for cite in draft.citations]
    return tuple(texts)
