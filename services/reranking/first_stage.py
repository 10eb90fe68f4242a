"""The reranker of a platform without a cross-encoder: keeps the first stage's order and says so. Pure.

`degraded` gets `reranker_unavailable` only when the asker or the tenant's policy demands reranking (`always`):
`auto` leaves the choice to the platform, whose decision `unavailable` already tells the whole truth.
"""

from __future__ import annotations

import numpy as np

from services.contracts import Candidates, Decision, Degradation, Fusion, Question, Ranked
from services.retrieval.uncertainty import uncertainty
from tenants.scope import TenantScope

_NONE_HERE = "No cross-encoder is installed on this platform, so the first stage's order stands."
_ASKED_NOT_TO = "The question or the tenant asked for no reranking, so the first stage's order stands."


class FirstStage:
    """contracts.Reranker without a model: `pairs` is always 0."""

    async def rerank(self, scope: TenantScope, question: Question, candidates: Candidates, fusion: Fusion) -> Ranked:
        """`score` is the fused score; `rerank` and `probability` are NaN in every row."""
        wanted = question.rerank if question.rerank != "auto" else scope.config.rerank.policy
        decision: Decision = "skipped" if wanted == "never" else "unavailable"
        degraded: tuple[Degradation, ...] = ("reranker_unavailable",) if wanted == "always" else ()
        unscored = np.full(len(candidates.passages), np.nan, dtype=np.float32)
        return Ranked(
            order=fusion.order,
            score=fusion.score,
            rerank=unscored,
            probability=unscored,
            decision=decision,
            reason=_ASKED_NOT_TO if wanted == "never" else _NONE_HERE,
            uncertainty=uncertainty(candidates, fusion),
            degraded=degraded,
        )
