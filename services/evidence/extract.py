"""The extractive answerer: the sentences that answer, verbatim, in readable order, each cited; or a refusal.

    sentences → vectors (one batch) → log-odds each → answerable at all? → which → in order, with markers

It writes no word of its own but the refusal, so it cannot say what the evidence does not. A question for a fact
gets the sentence that holds it; one for an explanation or a procedure gets the run of sentences around it. While
the embedder is away, the share of the question's terms stands in for every cosine, and the draft says
`generator_unavailable`. Texts are read in a thread, beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from services.contracts import AnswerEvent, Candidates, Degradation, Draft, Evidence, Float32, Question, Retriever
from services.evidence.abstention import answerable, declines, evidence_features
from services.evidence.citations import Part, Pick, compose
from services.evidence.picking import pick
from services.evidence.scoring import Sentence, Wanted, features, logits, sentences, wanted
from services.evidence.text import content
from tenants.errors import DeadlineExceeded, Unavailable
from tenants.scope import TenantScope

GENERATOR = "extractive"
REFUSAL = "The evidence found in this index does not answer the question."


class ExtractiveAnswerer:
    """contracts.Answerer. `retriever` embeds the sentences with the embedder of the pinned release."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever

    async def answer(
        self, scope: TenantScope, question: Question, evidence: Evidence, candidates: Candidates
    ) -> AsyncIterator[AnswerEvent]:
        """Each sentence with its marker, then its citation; the draft last. An abstention cites nothing."""
        want, found = await asyncio.to_thread(_read, question, evidence, candidates)
        vectors = await self._vectors(scope, found)
        written = partial(_written, scope, want, found, vectors, evidence, candidates, question.max_tokens)
        for event in await asyncio.to_thread(written):
            yield event

    async def _vectors(self, scope: TenantScope, found: Sequence[Sentence]) -> Float32 | None:
        """(m, d) float32 unit vectors of the sentences' heads; None while the embedder is away."""
        if scope.release is None or not found:
            return np.empty((0, 0), np.float32)
        try:
            return await self._retriever.embed(scope.release.embedder, [one.head for one in found])
        except DeadlineExceeded:
            raise
        except Unavailable:
            return None


def _read(question: Question, evidence: Evidence, candidates: Candidates) -> tuple[Wanted, list[Sentence]]:
    want = wanted(question.text, candidates)
    return want, sentences(evidence, want)


def _written(
    scope: TenantScope,
    want: Wanted,
    found: Sequence[Sentence],
    vectors: Float32 | None,
    evidence: Evidence,
    candidates: Candidates,
    max_tokens: int | None,
) -> list[AnswerEvent]:
    """Everything from the sentences' vectors to the events; `vectors` None where there are none to be had."""
    lexical = vectors is None
    picks: Sequence[Pick] = ()
    probability = 0.0
    if found and scope.release is not None:
        if vectors is None:
            vectors, candidates = _lexical(want, found, candidates)
        table = features(want, found, vectors, evidence, candidates)
        logit = logits(table)
        known = evidence.probabilities
        probability = answerable(evidence_features(want, found, table, logit, evidence, candidates), known)
        if scope.config.answer.abstain == "never" or not declines(probability, reranked=bool(known)):
            picks = pick(want.text, found, logit, max_tokens)
    return _events(compose(evidence.passages, picks), probability, ("generator_unavailable",) if lexical else ())


def _lexical(want: Wanted, found: Sequence[Sentence], candidates: Candidates) -> tuple[Float32, Candidates]:
    """(m, 1) float32 shares of the question's terms in each sentence, and candidates that fit them.

    Cosines of the passages stay where the question's vector was there to compute them.
    """
    recall = np.array([[want.recall(one.terms)] for one in found], np.float32)
    dense = candidates.dense
    if not candidates.query_vector.any():
        texts = (f"{one.title} {one.heading} {one.text}" for one in candidates.passages)
        dense = np.array([want.recall(frozenset(content(text))) for text in texts], np.float32)
    return recall, replace(candidates, dense=dense, query_vector=np.ones(1, np.float32))


def _events(parts: Sequence[Part], probability: float, degraded: tuple[Degradation, ...]) -> list[AnswerEvent]:
    draft = Draft(
        answer="".join(part.text for part in parts) or REFUSAL,
        grounded="full" if parts else "abstained",
        generator=GENERATOR,
        citations=tuple(part.citation for part in parts),
        degraded=degraded,
        abstain_score=round(1 - probability, 6),
    )
    events: list[AnswerEvent] = []
    for part in parts:
        events.append(AnswerEvent("token", text=part.text))
        events.append(AnswerEvent("citation", citation=part.citation))
    if not parts:
        events.append(AnswerEvent("token", text=draft.answer))
    return [*events, AnswerEvent("answer", draft=draft)]
