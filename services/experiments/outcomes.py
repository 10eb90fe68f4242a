"""What an experiment reads of one question, see `contracts.Outcome`. Pure."""

from __future__ import annotations

from typing import Any

from services.contracts import Draft, Outcome
from services.result import Prepared, degradations

SHOWN = 100  # chunk ids that are kept: a page is no longer


def outcome_of(prepared: Prepared, draft: Draft | None, state: str) -> Outcome | None:
    """None where nobody will ask: no experiment runs on the question, and nobody says who asked it."""
    variant = prepared.scope.variant
    if variant.experiment is None and not variant.unit:
        return None
    return Outcome(variant.experiment, variant.arm, variant.unit, _values(prepared, draft, state))


def _values(prepared: Prepared, draft: Draft | None, state: str) -> dict[str, Any]:
    spent, ranked = prepared.watch.read(), prepared.ranked
    shown = [passage.chunk_id for passage in prepared.evidence.passages[:SHOWN]]
    values: dict[str, Any] = {
        "kind": "answer" if draft is not None or state == "streaming" else "search",
        "state": state,
        "ms": round(spent["total"], 2),
        "rerank_ms": round(spent.get("rerank", 0.0), 2),
        "pairs": ranked.pairs,
        "tokens": draft.prompt_tokens + draft.completion_tokens if draft else 0,
        "abstained": draft is not None and draft.grounded == "abstained",
        "degraded": bool(degradations(prepared, draft)),
        "shown": shown,
    }
    if (two := ranked.interleaved) is not None:
        place = dict(zip(ranked.order.tolist(), two.teams, strict=True))
        values["teams"] = [place[row] for row in prepared.evidence.rows[:SHOWN]]
    return values
