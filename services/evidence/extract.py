"""The extractive answerer: the sentences that answer, verbatim, in readable order, each cited; or a refusal.

    sentences → vectors (one batch) → log-odds each → answerable at all? → which → in order, with markers

It writes no word of its own but the refusal, so it cannot say what the evidence does not. A question for a fact
gets the sentence that holds it; one for an explanation or a procedure gets the run of sentences around it. While
the embedder is away, the share of the question's terms stands in for every cosine, and the draft says
`generator_unavailable`. Texts are read in a thread, beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.contracts import AnswerEvent, Candidates, Degradation, Draft, Evidence, Float32, Question, Retriever
from services.evidence.abstention import answerable, declines, evidence_features
from services.evidence.citations import Part, Pick, compose
from services.evidence.conflicts import Conflict, conflicts, disclosed
from services.evidence.picking import pick
from services.evidence.scoring import Sentence, Wanted, features, logits, sentences, wanted
from services.evidence.text import content, words
from tenants.errors import DeadlineExceeded, Unavailable
from tenants.scope import TenantScope

GENERATOR = "extractive"
REFUSAL = "The evidence found in this index does not answer the question."


@dataclass(frozen=True, slots=True)
class Judged:
    """The evidence read sentence by sentence: how likely it answers at all, and whether to say that it does not.

    `logit` (m,) float32 are the sentences' log-odds; `degraded` says that there were no vectors to read with.
    """

    want: Wanted
    found: Sequence[Sentence]
    logit: Float32
    probability: float
    declined: bool
    degraded: tuple[Degradation, ...] = ()

    @property
    def abstain_score(self) -> float:
        """1 − probability that the evidence answers."""
        return round(1 - self.probability, 6)


class ExtractiveAnswerer:
    """contracts.Answerer. `retriever` embeds the sentences with the embedder of the pinned release."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever

    async def answer(
        self, scope: TenantScope, question: Question, evidence: Evidence, candidates: Candidates
    ) -> AsyncGenerator[AnswerEvent]:
        """Each sentence with its marker, then its citation; the draft last. An abstention cites nothing."""
        judged = await self.judge(scope, question, evidence, candidates)
        for event in await asyncio.to_thread(quoted, judged, scope, question, evidence):
            yield event

    async def judge(self, scope: TenantScope, question: Question, evidence: Evidence, candidates: Candidates) -> Judged:
        """What must be known before anything is written, by whatever writes it."""
        want, found = await asyncio.to_thread(_read, question, evidence, candidates)
        vectors = await self._vectors(scope, found)
        return await asyncio.to_thread(_judged, scope, want, found, vectors, evidence, candidates)

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


def quoted(judged: Judged, scope: TenantScope, question: Question, evidence: Evidence) -> list[AnswerEvent]:
    """The answer in the evidence's own sentences, or the refusal, as events."""
    if judged.declined:
        return refused(judged, GENERATOR)
    picks = pick(judged.want.text, judged.found, judged.logit, question.max_tokens)
    disagree = conflicts(question.text, evidence.passages, scope.config)
    told = disclosed(disagree)
    if question.max_tokens is not None and _words([*picks, *told], evidence) > question.max_tokens:
        told = ()
    return _events(compose(evidence.passages, [*picks, *told]), disagree, judged)


def _words(picks: Sequence[Pick], evidence: Evidence) -> int:
    return sum(len(words(evidence.passages[one.place].text[one.start : one.end])) for one in picks)


def refused(judged: Judged, generator: str) -> list[AnswerEvent]:
    """An abstention: it says so and cites nothing."""
    draft = Draft(
        answer=REFUSAL,
        grounded="abstained",
        generator=generator,
        citations=(),
        degraded=judged.degraded,
        abstain_score=judged.abstain_score,
    )
    return [AnswerEvent("token", text=REFUSAL), AnswerEvent("answer", draft=draft)]


def _read(question: Question, evidence: Evidence, candidates: Candidates) -> tuple[Wanted, list[Sentence]]:
    want = wanted(question.text, candidates)
    return want, sentences(evidence, want)


def _judged(
    scope: TenantScope,
    want: Wanted,
    found: Sequence[Sentence],
    vectors: Float32 | None,
    evidence: Evidence,
    candidates: Candidates,
) -> Judged:
    """`vectors` None where there are none to be had."""
    degraded: tuple[Degradation, ...] = () if vectors is not None else ("generator_unavailable",)
    if not found or scope.release is None:
        return Judged(want, found, np.empty(0, np.float32), 0.0, declined=True, degraded=degraded)
    if vectors is None:
        vectors, candidates = _lexical(want, found, candidates)
    table = features(want, found, vectors, evidence, candidates)
    logit = logits(table)
    known = evidence.probabilities
    probability = answerable(evidence_features(want, found, table, logit, evidence, candidates), known)
    declined = scope.config.answer.abstain != "never" and declines(probability, reranked=bool(known))
    return Judged(want, found, logit, probability, declined, degraded)


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


def _events(parts: Sequence[Part], disagree: Sequence[Conflict], judged: Judged) -> list[AnswerEvent]:
    draft = Draft(
        answer="".join(part.text for part in parts),
        grounded="full",
        generator=GENERATOR,
        citations=tuple(citation for part in parts for citation in part.citations),
        conflicts=tuple(one.note for one in disagree),
        degraded=judged.degraded,
        abstain_score=judged.abstain_score,
    )
    events: list[AnswerEvent] = []
    for part in parts:
        events.append(AnswerEvent("token", text=part.text))
        events += [AnswerEvent("citation", citation=citation) for citation in part.citations]
    return [*events, AnswerEvent("answer", draft=draft)]
