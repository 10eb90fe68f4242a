"""Which of the ranked chunks are shown: a page of results, or the evidence of an answer. Pure.

Both walk the final order once and give every chunk that stays out a reason, so that the audit can say why:

    rank               below the last place that is shown
    group_by           a better chunk of its document is shown, and the question groups by document
    duplicate          says what a shown chunk says (evidence only)
    document_cap       its document already has MAX_PER_DOCUMENT passages (evidence only)
    token_budget       does not fit the tokens that are left (evidence only)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from services.contracts import Candidates, Evidence, Passage, Question, Ranked
from services.evidence.text import shingles
from tenants.scope import TenantScope

TOKEN_BUDGET = 2_400  # of all shown passages together, in the embedder's tokens
MAX_PER_DOCUMENT = 3
SAME_COSINE = 0.9  # below it two chunks' texts are not even compared
SAME_JACCARD = 0.8  # of the texts' word 5-shingles
SAME_SPAN = 0.6  # share of a chunk that a shown chunk of the same document covers

Refusal = Callable[[int, list[int]], str | None]


def page(question: Question, scope: TenantScope, candidates: Candidates, ranked: Ranked) -> Evidence:
    """The first `top_k` of the order; with `group_by=document` only the best chunk of each document."""
    return _walk(question.top_k, candidates, ranked, lambda row, shown: _grouped(question, candidates, row, shown))


def select(question: Question, scope: TenantScope, candidates: Candidates, ranked: Ranked) -> Evidence:
    """At most the tenant's `answer.evidence` passages (and `top_k`), each saying something of its own."""
    limit = min(scope.config.answer.evidence, question.top_k)

    def refusal(row: int, shown: list[int]) -> str | None:
        return _grouped(question, candidates, row, shown) or _redundant(candidates, row, shown)

    return _walk(limit, candidates, ranked, refusal)


def _walk(limit: int, candidates: Candidates, ranked: Ranked, refusal: Refusal) -> Evidence:
    shown: list[int] = []
    dropped: dict[str, str] = {}
    for row in ranked.order.tolist():
        reason = "rank" if len(shown) >= limit else refusal(row, shown)
        if reason is None:
            shown.append(row)
        else:
            dropped[candidates.passages[row].chunk_id] = reason
    passages = tuple(candidates.passages[row] for row in shown)
    # The shortest decimal of the float32, so that what the asker sees is what the audit can replay.
    scores = tuple(float(str(ranked.score[row])) for row in shown)
    known = ranked.probability[np.isfinite(ranked.probability)]
    return Evidence(passages, tuple(shown), scores, dropped, tuple(np.sort(known)[::-1].tolist()))


def _grouped(question: Question, candidates: Candidates, row: int, shown: list[int]) -> str | None:
    if question.group_by != "document":
        return None
    document = _document(candidates.passages[row])
    return "group_by" if any(_document(candidates.passages[other]) == document for other in shown) else None


def _redundant(candidates: Candidates, row: int, shown: list[int]) -> str | None:
    passage = candidates.passages[row]
    per_document = Counter(_document(candidates.passages[other]) for other in shown)
    if per_document[_document(passage)] >= MAX_PER_DOCUMENT:
        return "document_cap"
    if any(_same(candidates, row, other) for other in shown):
        return "duplicate"
    used = sum(candidates.passages[other].tokens for other in shown)
    return "token_budget" if shown and used + passage.tokens > TOKEN_BUDGET else None


def _same(candidates: Candidates, row: int, other: int) -> bool:
    ours, theirs = candidates.passages[row], candidates.passages[other]
    if _document(ours) == _document(theirs) and _covered(ours, theirs) >= SAME_SPAN:
        return True
    if float(candidates.vectors[row] @ candidates.vectors[other]) < SAME_COSINE:
        return False
    mine, shown = shingles(ours.text), shingles(theirs.text)
    return len(mine & shown) >= SAME_JACCARD * len(mine | shown)


def _document(passage: Passage) -> tuple[str, str]:
    """Ids are unique in a tenant only; a shared collection's documents are its owner's."""
    return passage.owner, passage.document_id


def _covered(ours: Passage, theirs: Passage) -> float:
    """Share of our span that theirs covers, in [0, 1]."""
    length = ours.span.char_end - ours.span.char_start
    overlap = min(ours.span.char_end, theirs.span.char_end) - max(ours.span.char_start, theirs.span.char_start)
    return max(0, overlap) / length if length > 0 else 0.0
