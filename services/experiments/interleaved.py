"""Answers one question by two rankings at once: the rival's beside the control's, over the same candidates.

Both are fused and reranked as they would be alone; the list that is shown is their team draft. Its `score` is
1 / place: two rankings' scores have no common scale.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace

import numpy as np

from services.contracts import Candidates, Fusion, Question, Ranked, Reranker
from services.experiments.interleaving import team_draft
from services.retrieval.fusion import fuse, profile_of
from tenants.scope import TenantScope


@dataclass(frozen=True, slots=True)
class Interleaved:
    """The two rankings behind one list, the control's `a`; `teams` by place, "" = nobody's, see interleaving.py."""

    seed: int
    teams: tuple[str, ...]
    a: Ranked
    b: Ranked
    fusion_b: Fusion


async def interleaved(
    control: TenantScope,
    rival: TenantScope,
    question: Question,
    candidates: Candidates,
    fusion: Fusion,
    reranker: Reranker,
) -> Ranked:
    """The control's ranking (whose `fusion` is given) and the rival's as one list; they are made side by side."""
    other = fuse(candidates, question.mode, profile_of(rival))
    a, b = await asyncio.gather(
        reranker.rerank(control, question, candidates, fusion), reranker.rerank(rival, question, candidates, other)
    )
    return merged(a, b, other, secrets.randbits(32))


def merged(a: Ranked, b: Ranked, fusion_b: Fusion, seed: int) -> Ranked:
    """Pure. What either ranking paid for is paid; what either lacked is disclosed."""
    draft = team_draft(a.order.tolist(), b.order.tolist(), seed)
    order = np.array(draft.order, np.int32)
    score = np.empty(len(order), np.float32)
    score[order] = 1.0 / np.arange(1, len(order) + 1)
    return replace(
        a,
        order=order,
        score=score,
        rerank=np.where(np.isnan(a.rerank), b.rerank, a.rerank),
        probability=np.where(np.isnan(a.probability), b.probability, a.probability),
        reason=f"Two rankings are compared in this list. The first one's: {a.reason}",
        pairs=a.pairs + b.pairs,
        pairs_cached=a.pairs_cached + b.pairs_cached,
        certificate=None,
        degraded=tuple(dict.fromkeys((*a.degraded, *b.degraded))),
        interleaved=Interleaved(seed, draft.teams, a, b, fusion_b),
    )
