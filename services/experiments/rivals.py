"""Shadow experiments: a question is answered by the control, and ranked again by the other arm after its reply.

    offered → waits for its turn → the rival's ranking → how far it is from what was shown → audit

Never on the request path: `offer` returns at once, ROOM questions wait at most (a newcomer beyond that is dropped and
counted), one is at work at a time, and only while no asker waits. No generator writes for a shadow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from services import deadline
from services.afterwards import Afterwards, quiet
from services.contracts import AuditLog, AuditRecord, Caller, Outcome, Question
from services.experiments.outcomes import outcome_of
from services.result import Prepared
from tenants.scope import TenantScope

WORK_S = 30.0
TOP = 10

Prepare = Callable[[Question, TenantScope, Caller], Awaitable[Prepared]]


class Rivals(Protocol):
    """Takes every answered question of a shadow experiment; never raises, never waits."""

    def offer(self, prepared: Prepared) -> None:
        """Called after the reply."""
        ...


class NoRivals:
    """For evaluations and the CLI: their questions are not traffic."""

    def offer(self, prepared: Prepared) -> None:
        """Nothing happens."""


class ShadowRivals(Afterwards[Prepared]):
    """`Rivals` on the event loop of the process that serves; `idle` says that no asker waits."""

    def __init__(self, prepare: Prepare, audit: AuditLog, idle: Callable[[], bool]) -> None:
        super().__init__(self._one, "a shadow of an experiment")
        self._prepare = prepare
        self._audit = audit
        self._idle = idle

    def offer(self, prepared: Prepared) -> None:
        """See `Rivals`."""
        if prepared.scope.rival is not None and prepared.scope.variant.kind == "shadow":
            self.put(prepared)

    async def _one(self, shown: Prepared) -> bool:
        rival = shown.scope.rival
        if rival is None or not await quiet(self._at_rest):
            return False
        with deadline.within(WORK_S):
            found = await self._prepare(shown.question, rival, shown.caller)
        made = outcome_of(found, None, "complete")
        assert made is not None
        near = overlap(shown, found)
        facts = {
            "query_id": shown.query_id,
            "state": "rival",
            "variant": rival.variant.name,
            "overlap": near,
            "evidence": made.values["shown"],
            "rerank": {"decision": found.ranked.decision, "pairs": found.ranked.pairs},
        }
        told = Outcome(made.experiment, made.arm, made.unit, {**made.values, "overlap": near})
        await self._audit.append(rival, AuditRecord(shown.query_id, found.at_ms, facts, outcome=told))
        return True

    async def _at_rest(self) -> bool:
        return self._idle()


def overlap(one: Prepared, other: Prepared, top: int = TOP) -> float:
    """Share of the first `top` ranked chunks that both hold, in [0, 1]; 1 where neither found anything."""
    first, second = (
        {each.candidates.passages[row].chunk_id for row in each.ranked.order[:top].tolist()} for each in (one, other)
    )
    return len(first & second) / max(len(first), len(second)) if first or second else 1.0
