"""What written answers are worth: every labelled question answered, by one generator or several side by side.

Per question, of what was written (a text's normalisation is answers.py's):

    exact, token_f1, containment   against the best of the gold answers, where the questions carry some
    citation_precision             share of citations whose quote says what the sentence before them says
    citation_recall                share of the answer's sentences that have such a citation
    cited_in_gold                  share of citations that lie in a relevant document
    verbatim                       1 when every quote stands in its chunk, else 0
    answerable                     1 when a relevant document was among the evidence, else 0
    correct                        what the risk is counted by: containment ≥ ½ where there are gold answers, else the
                                   first citation lies in a relevant document

Per generator also: AUROC of 1 − abstain score between answerable and other questions; the risk-coverage curve
(El-Yaniv & Wiener 2010: risk = share of wrong ones among the k most confident questions) and the area under it; the
times to the first token and to the whole answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from jobs.evaluation.answers import auroc, containment, means, normalised, token_f1
from services.contracts import Caller, Citation, Draft, Float32, Passage, Question
from services.evidence.citations import WORD_JOINER
from services.evidence.sentences import split
from services.evidence.support import support
from services.query import Steps, prepare
from tenants.errors import IntegrityError
from tenants.scope import TenantScope

_CALLER = Caller("evaluation", "evaluation")


@dataclass(frozen=True, slots=True)
class Written:
    """One question's answer: the figures above by name, None = cannot be said; times in milliseconds."""

    grounded: str
    generator: str
    confidence: float | None
    figures: Mapping[str, float | None]
    first_token_ms: float
    answer_ms: float
    tokens: int


async def write(
    question: Question, scope: TenantScope, steps: Steps, relevant: Mapping[str, int], gold: Sequence[str]
) -> Written:
    """Answer one question as it would be served, and judge what came."""
    began = time.perf_counter()
    prepared = await prepare(question, scope, steps, _CALLER)
    first_ms: float | None = None
    draft: Draft | None = None
    events = steps.answerer.answer(scope, question, prepared.evidence, prepared.candidates)
    async with aclosing(events) as stream:
        async for event in stream:
            if event.kind == "token" and first_ms is None:
                first_ms = (time.perf_counter() - began) * 1000
            draft = event.draft or draft
    answer_ms = (time.perf_counter() - began) * 1000
    if draft is None:
        raise IntegrityError("the answerer ended without an answer")
    return Written(
        grounded=draft.grounded,
        generator=draft.generator,
        confidence=None if draft.abstain_score is None else 1 - draft.abstain_score,
        figures=await asyncio.to_thread(judged, draft, prepared.evidence.passages, relevant, gold),
        first_token_ms=answer_ms if first_ms is None else first_ms,
        answer_ms=answer_ms,
        tokens=draft.completion_tokens,
    )


def judged(
    draft: Draft, passages: Sequence[Passage], relevant: Mapping[str, int], gold: Sequence[str]
) -> dict[str, float | None]:
    """The figures of one draft; `relevant` {document: grade}, `gold` answers (may be none)."""
    shown = {passage.chunk_id: passage for passage in passages}
    good = {document for document, grade in relevant.items() if grade > 0}
    answered = draft.grounded != "abstained"
    backed = [_backs(draft.answer, citation) for citation in draft.citations]
    found: dict[str, float | None] = {
        "answerable": float(any(passage.document_id in good for passage in passages)),
        "verbatim": float(all(_verbatim(citation, shown) for citation in draft.citations)),
        "citation_precision": float(np.mean(backed)) if backed else None,
        "citation_recall": _covered(draft, backed) if answered else None,
        "cited_in_gold": (
            float(np.mean([citation.document_id in good for citation in draft.citations])) if draft.citations else None
        ),
    }
    text = _bare(draft)
    if gold and answered:
        found["exact"] = float(any(normalised(text) == normalised(one) for one in gold))
        found["token_f1"] = max(token_f1(text, one) for one in gold)
        found["containment"] = max(containment(text, one) for one in gold)
    if not answered:
        right = 0.0
    elif gold:
        right = float((found["containment"] or 0.0) >= 0.5)
    else:
        right = float(bool(draft.citations) and draft.citations[0].document_id in good)
    return found | {"correct": right}


def summary(written: Sequence[Written]) -> dict[str, float]:
    """One generator's figures over all questions."""
    states = [one.grounded for one in written]
    figures = means([one.figures for one in written])
    figures |= {f"grounded_{state}": states.count(state) / len(states) for state in ("full", "partial", "abstained")}
    known = [one for one in written if one.confidence is not None]
    sure = [one.confidence or 0.0 for one in known if one.figures["answerable"]]
    unsure = [one.confidence or 0.0 for one in known if not one.figures["answerable"]]
    if sure and unsure:
        figures["abstention_auroc"] = auroc(sure, unsure)
    if known:
        figures["risk_coverage_area"] = float(risk_curve(known).mean())
    for name, values in (
        ("first_token", [one.first_token_ms for one in written]),
        ("answer", [one.answer_ms for one in written]),
    ):
        figures |= {f"{name}_p{cut}_ms": float(np.percentile(values, cut)) for cut in (50, 95)}
    figures["tokens"] = float(np.mean([one.tokens for one in written]))
    return {name: round(value, 6) for name, value in figures.items()}


def risk_curve(written: Sequence[Written]) -> Float32:
    """(n,) float32: share of wrong ones among the 1 … n most confident questions."""
    order = np.argsort([-(one.confidence or 0.0) for one in written], kind="stable")
    wrong = np.array([1 - (one.figures["correct"] or 0.0) for one in written], np.float32)[order]
    return (np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).astype(np.float32)


def figure_of(written: Mapping[str, Sequence[Written]]) -> Figure:
    """Risk against coverage, and time to the answer, a line each generator."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, answers in written.items():
        curve = risk_curve([one for one in answers if one.confidence is not None])
        if len(curve):
            left.plot(np.arange(1, len(curve) + 1) / len(curve), curve, label=name)
        times = np.sort([one.answer_ms for one in answers])
        right.plot(times, np.arange(1, len(times) + 1) / len(times), label=name)
    left.set(xlabel="coverage", ylabel="risk", title="Risk and coverage", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel="milliseconds to the whole answer", ylabel="share of questions", title="Time", ylim=(0, 1))
    for axes in (left, right):
        if axes.lines:
            axes.legend()
    return figure


def _backs(answer: str, citation: Citation) -> bool:
    said = answer[citation.answer_start : citation.answer_end].replace(WORD_JOINER, "")
    found = support(said, citation.quote)
    # A sentence without a word that could be compared (a row of figures, a line of code) must be the quote itself.
    return said == citation.quote.replace(WORD_JOINER, "") or (found is not None and found.holds)


def _verbatim(citation: Citation, shown: Mapping[str, Passage]) -> bool:
    passage = shown[citation.chunk_id]
    start = passage.span.char_start
    return passage.text[citation.char_start - start : citation.char_end - start] == citation.quote


def _covered(draft: Draft, backed: Sequence[bool]) -> float:
    """Share of the answer's sentences that a backed citation spans."""
    spans = [(one.answer_start, one.answer_end) for one, good in zip(draft.citations, backed, strict=True) if good]
    units = split(draft.answer)
    held = [any(start < unit.end and unit.start < end for start, end in spans) for unit in units]
    return float(np.mean(held)) if held else 0.0


def _bare(draft: Draft) -> str:
    """The cited sentences without markers: what is compared with a gold answer."""
    spans = dict.fromkeys((one.answer_start, one.answer_end) for one in draft.citations)
    return " ".join(draft.answer[start:end] for start, end in spans).replace(WORD_JOINER, "")
