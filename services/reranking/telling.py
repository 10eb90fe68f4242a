"""A finished rerank in the contract's words: order with the defences in it, decision, one honest sentence. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from services.contracts import Candidates, Decision, Degradation, Float32, Fusion, Ranked
from services.reranking.defences import settle
from services.reranking.facts import Costs, Float64, Limits, Role
from services.reranking.policy import Verdict, simulate
from services.reranking.shadow import DEPTH, Shown
from services.reranking.trace import Trace
from services.retrieval.uncertainty import uncertainty


def ranked_of(
    text: str, candidates: Candidates, fusion: Fusion, trace: Trace, degraded: tuple[Degradation, ...]
) -> Ranked:
    """`score` has the defences in it; a candidate's logit is the large model's, the small one's where that is all."""
    verdict = trace.verdict
    score, flags = settle(text, candidates, verdict.score, fusion.rank, trace.flags)
    large, small = verdict.logits["large"], verdict.logits["small"]
    scored = np.isfinite(large) | np.isfinite(small)
    probability = np.where(scored & trace.terms.calibrated, verdict.probability, np.nan).astype(np.float32)
    decision = _decision(trace, degraded)
    return Ranked(
        order=np.lexsort((fusion.rank, -score)).astype(np.int32),
        score=score,
        rerank=np.where(np.isnan(large), small, large),
        probability=probability,
        decision=decision,
        reason=_sentence(trace, decision),
        uncertainty=uncertainty(candidates, fusion),
        pairs=verdict.pairs,
        pairs_cached=verdict.cached,
        model=_model(trace),
        certificate=_certificate(trace),
        degraded=degraded,
        trace=replace(trace, flags=flags),
    )


def shown_of(query_id: str, text: str, candidates: Candidates, fusion: Fusion, ranked: Ranked) -> Shown | None:
    """What a shadow rerank needs of an answered question; None where no large model was at hand."""
    trace = ranked.trace
    if trace is None or "large" not in trace.models:
        return None
    return Shown(
        query_id=query_id,
        text=text,
        candidates=candidates,
        order=ranked.order,
        rows=fusion.order[:DEPTH],
        logits=trace.verdict.logits["large"],
        reference=trace.models["large"].reference,
        gains=partial(_gains, text, candidates, fusion, trace),
        group=trace.terms.group,
        certificate=trace.terms.certificate if ranked.certificate and trace.terms.wish == "auto" else None,
    )


def _gains(text: str, candidates: Candidates, fusion: Fusion, trace: Trace, logits: Float32) -> Float64:
    """(n,) the probabilities of relevance that the full rerank's final scores stand for, the defences in them."""
    profile, costs, limits = trace.terms.profile, Costs.work(trace.models), Limits(depth=DEPTH)
    verdict = simulate(trace.facts, {"large": logits}, profile, 0.0, costs, limits)
    return profile.relevance(settle(text, candidates, verdict.score, fusion.rank, trace.flags)[0])


def _decision(trace: Trace, degraded: tuple[Degradation, ...]) -> Decision:
    verdict = trace.verdict
    decider: Role = "large" if "large" in trace.models else "small"
    known = int(np.isfinite(verdict.logits[decider]).sum())
    if not verdict.steps:
        return "unavailable" if degraded else "skipped"
    if verdict.cached and not verdict.pairs:
        return "cached"
    return "full" if known >= _allowed(trace) else "partial"


def _allowed(trace: Trace) -> int:
    return min(trace.terms.limits.depth, len(trace.verdict.order))


def _certificate(trace: Trace) -> str | None:
    """None after anything that the certificate does not speak of: a budget, a failure, a depth of one's own."""
    held, stop = trace.terms.certificate, trace.verdict.stop
    shallow = _allowed(trace) < min(DEPTH, len(trace.verdict.order))
    return None if held is None or shallow or stop not in ("worth", "complete") else held.certificate_id


def _model(trace: Trace) -> str | None:
    used = {step.action.kind for step in trace.verdict.steps}
    deciding = trace.models.get("large") if "large" in used else trace.models.get("small")
    return deciding.name if used and deciding else None


def _sentence(trace: Trace, decision: Decision) -> str:
    verdict, terms = trace.verdict, trace.terms
    scored = _count(verdict)
    share = f"{scored} of {len(verdict.order)} candidates were scored"
    if verdict.stop == "failed":
        return f"The cross-encoder failed after {scored} candidates; the rest keep the first stage's word."
    if verdict.stop == "budget":
        limit = "request's time" if math.isinf(terms.limits.budget) else "latency budget"
        return f"The {limit} was used up after {share.replace(' were scored', '')}."
    if verdict.stop == "pairs":
        return f"The tenant's pairs per minute are used up; {share}."
    if terms.wish == "always":
        return f"Reranking was asked for: {share}."
    if terms.price <= 0:
        why = terms.why[:1].lower() + terms.why[1:]
        return f"{share}; {why}" if scored else f"No candidate may be scored at this depth; {why}"
    if not scored:
        return "The first stage is sure enough of its order: no score was worth its price."
    seen = "all known from earlier questions" if decision == "cached" else "scoring more was not worth its price"
    return f"{share}; {seen}."


def _count(verdict: Verdict) -> int:
    return int((np.isfinite(verdict.logits["large"]) | np.isfinite(verdict.logits["small"])).sum())
