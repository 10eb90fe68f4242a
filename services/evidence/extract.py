"""The extractive answerer: the sentences that answer, verbatim, in readable order, each cited; or a refusal.

    sentences → vectors (one batch) → log-odds each → answerable at all? → which → in order, with markers

It writes no word of its own but the refusal, so it cannot say what the evidence does not. A question for a fact
gets the sentence that holds it; one for an explanation or a procedure gets the run of sentences around it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from services.contracts import AnswerEvent, Candidates, Draft, Evidence, Question, Retriever
from services.evidence.abstention import answerable, declines, evidence_features
from services.evidence.citations import Part, Pick, compose
from services.evidence.picking import pick
from services.evidence.scoring import features, logits, sentences, wanted
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
        want = wanted(question.text, candidates)
        found = sentences(evidence, want)
        picks: Sequence[Pick] = ()
        probability = 0.0
        if found and scope.release is not None:
            vectors = await self._retriever.embed(scope.release.embedder, [one.head for one in found])
            table = features(want, found, vectors, evidence, candidates)
            logit = logits(table)
            probability = answerable(evidence_features(want, found, table, logit, evidence, candidates))
            if scope.config.answer.abstain == "never" or not declines(probability):
                picks = pick(question.text, found, logit)
        for event in _events(compose(evidence.passages, picks), probability):
            yield event


def _events(parts: Sequence[Part], probability: float) -> list[AnswerEvent]:
    draft = Draft(
        answer="".join(part.text for part in parts) or REFUSAL,
        grounded="full" if parts else "abstained",
        generator=GENERATOR,
        citations=tuple(part.citation for part in parts),
        abstain_score=round(1 - probability, 6),
    )
    events: list[AnswerEvent] = []
    for part in parts:
        events.append(AnswerEvent("token", text=part.text))
        events.append(AnswerEvent("citation", citation=part.citation))
    if not parts:
        events.append(AnswerEvent("token", text=draft.answer))
    return [*events, AnswerEvent("answer", draft=draft)]
