"""Shadow experiments: a question is answered by the control, and ranked again by the other arm after its reply.

    offered → waits for its turn → the rival's ranking → how far it is from what was shown → audit

Never on the request path: `offer` returns at once, ROOM questions wait at most (a newcomer beyond that is dropped and
counted), one is at work at a time, and only while no asker waits. No generator writes for a shadow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Protocol

from services import deadline
from services.contracts import AuditLog, AuditRecord, Caller, Outcome, Question
from services.experiments.outcomes import outcome_of
from services.result import Prepared
from tenants.errors import FathomError
from tenants.scope import TenantScope

ROOM = 64
WORK_S = 30.0
IDLE_POLL_S = 0.05
PATIENCE_S = 60.0  # askers that keep coming for so long: the shadow is dropped
TOP = 10
_log = logging.getLogger("fathom.experiments")

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


class ShadowRivals:
    """`Rivals` on the event loop of the process that serves; `idle` says that no asker waits."""

    def __init__(self, prepare: Prepare, audit: AuditLog, idle: Callable[[], bool]) -> None:
        self._prepare = prepare
        self._audit = audit
        self._idle = idle
        self._waiting: asyncio.Queue[Prepared] = asyncio.Queue(ROOM)
        self._worker: asyncio.Task[None] | None = None
        self.dropped = 0

    def offer(self, prepared: Prepared) -> None:
        """See `Rivals`."""
        if prepared.scope.rival is None or prepared.scope.variant.kind != "shadow":
            return
        try:
            self._waiting.put_nowait(prepared)
        except asyncio.QueueFull:
            self.dropped += 1
            return
        if self._worker is None or self._worker.done():
            # In a context of its own: the question's deadline is not the shadow's.
            self._worker = asyncio.get_running_loop().create_task(self._work(), context=Context())

    async def settle(self) -> None:
        """Wait until nothing is left to do; for tests and a tidy end."""
        await self._waiting.join()

    async def _work(self) -> None:
        while not self._waiting.empty():
            shown = self._waiting.get_nowait()
            try:
                await self._one(shown)
            except FathomError as error:
                _log.info("a shadow of an experiment was given up: %s", error.detail)
            finally:
                self._waiting.task_done()

    async def _one(self, shown: Prepared) -> None:
        rival = shown.scope.rival
        if rival is None or not await self._quiet():
            self.dropped += 1
            return
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

    async def _quiet(self) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while not self._idle():
            if loop.time() > until:
                return False
            await asyncio.sleep(IDLE_POLL_S)
        return True


def overlap(one: Prepared, other: Prepared, top: int = TOP) -> float:
    """Share of the first `top` ranked chunks that both hold, in [0, 1]; 1 where neither found anything."""
    first, second = (
        {each.candidates.passages[row].chunk_id for row in each.ranked.order[:top].tolist()} for each in (one, other)
    )
    return len(first & second) / max(len(first), len(second)) if first or second else 1.0
