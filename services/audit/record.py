"""What one question leaves behind: enough to say why each candidate was shown or not, and to redo the order. Pure.

Facts hold ids, digests and figures; a text goes beside them (contracts.AuditText), so that it can be erased.
Candidates are columns, best first, float32 in the shortest decimals that read back the same bits:

    dense, sparse, their ranks      both legs' lists; fused, fused_rank follow by retrieval/fusion.py and `fusion`
    large, small                    raw logits by model, null = not scored
    expected                        opinion as the order used it: of large where that is known, predicted elsewhere
    ranked                          β·expected + (1 − β)·fused
    score                           the same after the defences: what the order sorts by, ties by fused_rank
    top                             P(among the best ten if everything were scored), when the policy stopped
    decision                        skipped_confident | scored_small | escalated | cached | budget_stop | flagged
    flags                           defences.py's signs; hostile true = held behind the first page
    reason                          cited | shown | and selection.py's: rank, group_by, duplicate, document_cap,
                                    token_budget

`policy` (null where no cross-encoder was asked for): rule, profile and its digest, β, price λ, group, limits, models
with revision and dtype, the certificate that held, every step with its predicted gain and cost, the rate that the price
was held against (null = any price), what it really cost,
the columns' rows `at` which it scored, their logits and which the cache knew; why it stopped; `regret`, an upper
bound of what scoring the rest would gain. `variant`: its name, the experiment and arm, the unit's digest, the
propensity; null = the tenant's plain configuration outside of any experiment. `interleaved` (null = the list is one
ranking's): the seed, the list, each place's team, and the rival's ranking in these same words; the candidates are the
control's. A shadow rerank of the question is a record of its own, with the same query id.

services/audit/replay.py redoes the order. Records of format 1, before there were cross-encoders, still read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from services.audit.tables import shared_document
from services.contracts import AuditRecord, AuditText, Degradation, Draft, Float32, Passage, Question
from services.experiments.outcomes import outcome_of
from services.reranking.facts import Step
from services.reranking.features import QUESTION
from services.reranking.trace import POLICY, Trace
from services.result import Prepared, rerank_json
from services.retrieval.fusion import VERSION
from services.retrieval.uncertainty import features
from tenants.ids import text_digest
from tenants.scope import Variant

FORMAT = 2


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
        "shared": _shared(prepared),
        "question": _question(prepared.question),
        **explained(prepared, draft),
        "evidence": [passage.chunk_id for passage in prepared.evidence.passages],
        "answer": _answer(draft) if draft else None,
        "degraded": list(degraded),
        "variant": _variant(prepared.scope.variant),
        "interleaved": _interleaved(prepared, draft),
        "timings_ms": {stage: round(spent, 2) for stage, spent in prepared.watch.read().items()},
    }
    sources = [_source(passage) for passage in prepared.evidence.passages] if draft else []
    texts, outcome = _texts(prepared, draft), outcome_of(prepared, draft, state)
    return AuditRecord(prepared.query_id, prepared.at_ms, facts, texts, tuple(sources), outcome)


def explained(prepared: Prepared, draft: Draft | None) -> dict[str, Any]:
    """How the order came about: fusion, features, rerank, policy, candidates; the control's where two were made."""
    if (two := prepared.ranked.interleaved) is not None:
        prepared = replace(prepared, ranked=two.a)
    fusion = {"version": VERSION, "weight": prepared.fusion.weight, "source": prepared.fusion.source}
    return {
        "fusion": fusion,
        "features": _features(prepared),
        "rerank": rerank_json(prepared.ranked, len(prepared.candidates.passages)),
        "policy": None if prepared.ranked.trace is None else _policy(prepared.ranked.trace, prepared),
        "candidates": _candidates(prepared, draft),
    }


def _variant(variant: Variant) -> dict[str, Any] | None:
    if variant.name is None and variant.experiment is None:
        return None
    return {name: getattr(variant, name) for name in ("name", "experiment", "arm", "kind", "unit", "propensity")}


def _interleaved(prepared: Prepared, draft: Draft | None) -> dict[str, Any] | None:
    two = prepared.ranked.interleaved
    if two is None:
        return None
    passages, rival = prepared.candidates.passages, replace(prepared, fusion=two.fusion_b, ranked=two.b)
    order = [passages[row].chunk_id for row in prepared.ranked.order.tolist()]
    return {"seed": two.seed, "order": order, "teams": list(two.teams), "rival": explained(rival, draft)}


def _features(prepared: Prepared) -> dict[str, float]:
    if not len(prepared.fusion.order):
        return {}
    trace = prepared.ranked.trace
    known = features(prepared.candidates, prepared.fusion).as_dict()
    asked = dict(zip(QUESTION, _plain(trace.facts.question), strict=True)) if trace else {}
    return known | {name: value for name, value in asked.items() if value is not None}


def _policy(trace: Trace, prepared: Prepared) -> dict[str, Any]:
    terms, verdict = trace.terms, trace.verdict
    limits = asdict(terms.limits)
    place = np.empty(len(verdict.order), np.int64)
    place[prepared.ranked.order] = np.arange(len(place))
    return {
        "rule": POLICY,
        "wish": terms.wish,
        "profile": {"digest": terms.digest, "source": terms.profile.source, "fits": terms.calibrated},
        "blend": terms.profile.blend,
        "calibration": {role: one.to_json() for role, one in terms.profile.calibration.items()},
        "group": terms.group,
        "price": terms.price,
        "limits": limits | {"budget": None if np.isinf(limits["budget"]) else limits["budget"]},
        "models": {
            role: {name: getattr(one, name) for name in ("reference", "revision", "dtype", "tokenizer")}
            for role, one in trace.models.items()
        },
        "certificate": terms.certificate.to_json() if terms.certificate else None,
        "steps": [_step(step, place) for step in verdict.steps],
        "stop": verdict.stop,
        "regret": verdict.regret,
        "failure": trace.failure,
    }


def _step(step: Step, place: npt.NDArray[np.int64]) -> dict[str, Any]:
    action = step.action
    return {
        "kind": action.kind,
        "gain": action.gain,
        "rate": None if np.isinf(action.rate) else action.rate,
        "predicted_ms": round(action.cost, 3),
        "elapsed_ms": round(step.elapsed, 3),
        "at": place[action.rows].tolist(),
        "logits": _plain(step.logits),
        "cached": step.cached.tolist(),
    }


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
    columns = {
        "chunk_id": [passage.chunk_id for passage in passages],
        "document_id": [passage.document_id for passage in passages],
        "dense": _plain(found.dense[order]),
        "sparse": _plain(found.sparse[order]),
        "dense_rank": found.dense_rank[order].tolist(),
        "sparse_rank": found.sparse_rank[order].tolist(),
        "fused": _plain(fusion.score[order]),
        "fused_rank": fusion.rank[order].tolist(),
        "reason": [
            "cited" if one in cited else "shown" if one in shown else prepared.evidence.dropped.get(one, "rank")
            for one in (passage.chunk_id for passage in passages)
        ],
    }
    return columns if ranked.trace is None else columns | _reranked(ranked.trace, ranked.score, order)


def _reranked(trace: Trace, score: Float32, order: list[int]) -> dict[str, list[Any]]:
    verdict, flags = trace.verdict, trace.flags
    return {
        "large": _plain(verdict.logits["large"][order]),
        "small": _plain(verdict.logits["small"][order]),
        "expected": _plain(verdict.opinion[order]),
        "ranked": _plain(verdict.score[order]),
        "score": _plain(score[order]),
        "top": _plain(verdict.top[order]),
        "decision": [verdict.reasons[row] for row in order],
        "flags": [flags.reasons[row] for row in order],
        "hostile": flags.hostile[order].tolist(),
    }


def _plain(values: Float32) -> list[float | None]:
    return [None if text == "nan" else float(text) for text in values.astype(str).tolist()]


def _answer(draft: Draft) -> dict[str, Any]:
    spans = ("marker", "chunk_id", "document_id", "char_start", "char_end", "answer_start", "answer_end")
    return {
        "generator": draft.generator,
        "prompt": draft.prompt_version,
        "grounded": draft.grounded,
        "abstain_score": draft.abstain_score,
        "citations": [{name: getattr(citation, name) for name in spans} for citation in draft.citations],
        "conflicts": [asdict(note) for note in draft.conflicts],
        "usage": {"prompt_tokens": draft.prompt_tokens, "completion_tokens": draft.completion_tokens},
    }


def _shared(prepared: Prepared) -> list[dict[str, Any]]:
    """Each collection of another tenant that could be read: its version, and the candidates that came from it."""
    passages = prepared.candidates.passages
    return [
        {
            "collection": share.name,
            "index_version": share.release.version,
            "chunk_id": [passage.chunk_id for passage in passages if passage.owner == share.key],
        }
        for share in prepared.scope.shared
    ]


def _source(passage: Passage) -> str:
    """The document behind a text, so that erasing it finds the text: the owner's uid goes before a shared one's id."""
    return (
        shared_document(passage.owner.partition("/")[0], passage.document_id) if passage.owner else passage.document_id
    )


def _texts(prepared: Prepared, draft: Draft | None) -> tuple[AuditText, ...]:
    question = prepared.question
    texts = [AuditText("query", question.text)]
    texts += [AuditText(slot, text) for slot, text in (("session", question.session), ("user", question.user)) if text]
    if draft is not None:
        texts.append(AuditText("answer", draft.answer))
        owners = {passage.chunk_id: _source(passage) for passage in prepared.evidence.passages}
        texts += [AuditText(f"quote.{cite.marker}", cite.quote, owners[cite.chunk_id]) for cite in draft.citations]
    return tuple(texts)
