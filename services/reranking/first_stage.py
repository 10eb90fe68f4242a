"""The first stage's order as the answer: of a platform without a cross-encoder, and of questions that get none. Pure.

`degraded` gets `reranker_unavailable` only when the asker or the tenant's policy demands reranking (`always`) or a
cross-encoder that should be here failed: `auto` leaves the choice to the platform, whose decision `unavailable`
already tells the whole truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.contracts import Candidates, Decision, Degradation, Fusion, Question, Ranked
from services.retrieval.uncertainty import uncertainty
from tenants.errors import DeadlineExceeded, FathomError
from tenants.scope import TenantScope

_NONE_HERE = "No cross-encoder is installed on this platform, so the first stage's order stands."
_ASKED_NOT_TO = "The question or the tenant asked for no reranking, so the first stage's order stands."
_NOTHING = "Nothing was found, so there is nothing to rerank."
_FAILED = "The cross-encoder is not there at the moment, so the first stage's order stands."
_TOO_LATE = "The cross-encoder did not answer in time, so the first stage's order stands."


class FirstStage:
    """contracts.Reranker without a model: `pairs` is always 0."""

    async def rerank(self, scope: TenantScope, question: Question, candidates: Candidates, fusion: Fusion) -> Ranked:
        """`score` is the fused score; `rerank` and `probability` are NaN in every row."""
        wanted = question.rerank if question.rerank != "auto" else scope.config.rerank.policy
        return unscored(candidates, fusion, wanted)


def unscored(
    candidates: Candidates,
    fusion: Fusion,
    wish: str,
    *,
    failure: FathomError | None = None,
    languages: Sequence[str] = (),
) -> Ranked:
    """The first stage's order, and why: `wish` never, a `failure` to reach any model, or none for the `languages`."""
    decision: Decision = "skipped" if wish == "never" else "unavailable"
    degraded: tuple[Degradation, ...] = ("reranker_unavailable",) if wish == "always" or failure else ()
    reason = _ASKED_NOT_TO if wish == "never" else _NONE_HERE
    if languages:
        reason = f"No cross-encoder here was trained for {languages[0]}, so the first stage's order stands."
    if failure is not None:
        late = isinstance(failure, DeadlineExceeded)
        reason, degraded = (_TOO_LATE, ("reranker_timeout",)) if late else (_FAILED, degraded)
    blank = np.full(len(candidates.passages), np.nan, dtype=np.float32)
    return Ranked(
        order=fusion.order,
        score=fusion.score,
        rerank=blank,
        probability=blank,
        decision=decision,
        reason=reason,
        uncertainty=uncertainty(candidates, fusion),
        degraded=degraded,
    )


def nothing_found(candidates: Candidates, fusion: Fusion) -> Ranked:
    """Of a question without a candidate."""
    blank = np.empty(0, np.float32)
    return Ranked(fusion.order, fusion.score, blank, blank, "skipped", _NOTHING, None)
