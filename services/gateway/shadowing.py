"""What a gateway does with shadow reranks: when one may run, and who hears of its loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from services import deadline
from services.contracts import AuditLog, AuditRecord, PairScorer
from services.gateway.fairness import FairGate
from services.reranking.shadow import ShadowReranks, ShadowResult
from tenants.calibration_rows import Change
from tenants.errors import FathomError
from tenants.records import Owner
from tenants.scope import TenantScope

ASK_S = 1.0
_log = logging.getLogger("fathom.shadow")


class QueuedScorer(PairScorer, Protocol):
    """A scorer that says how much waits for a model."""

    async def waiting(self, scope: TenantScope, reference: str) -> int:
        """Pairs in the queue."""
        ...


class ShadowMeter(Protocol):
    """Counts; never raises, never blocks."""

    def shadowed(self, tenant: str, group: str, loss: float, wealth: float) -> None:
        """One shadow rerank: the loss that it found and the e-process's wealth after it."""
        ...


class DriftRows(Protocol):
    """The control plane, as far as drift needs it."""

    def change_drift(self, tenant: Owner, group: str, change: Change) -> Mapping[str, Any]:
        """See `tenants.calibration_rows`."""
        ...


class Witnesses:
    """shadow.Witness: a record beside the question's own in the audit, metrics, and a line in the log at an alarm."""

    def __init__(self, audit: AuditLog, meter: ShadowMeter) -> None:
        self._audit = audit
        self._meter = meter

    async def shadowed(self, scope: TenantScope, result: ShadowResult) -> None:
        """Raises `Unavailable` when the audit does not take it."""
        self._meter.shadowed(scope.tenant, result.group, result.loss, result.wealth)
        if result.alarmed:
            _log.warning(
                "tenant %s, group %s: certificate %s no longer holds (wealth %.1f); everything is reranked until "
                "`fathom calibrate %s`",
                scope.tenant,
                result.group,
                result.certificate,
                result.wealth,
                scope.tenant,
            )
        facts = {"query_id": result.query_id, "state": "shadow", "shadow": asdict(result)}
        await self._audit.append(scope, AuditRecord(result.query_id, time.time_ns() // 1_000_000, facts))


class Idleness:
    """shadow.Idle: no question is at work or waits here, and no pair waits for the model."""

    def __init__(self, gate: FairGate, scorer: QueuedScorer) -> None:
        self._gate = gate
        self._scorer = scorer

    async def __call__(self, scope: TenantScope, reference: str) -> bool:
        """A scorer that does not answer is not idle."""
        if self._gate.running or self._gate.waiting:
            return False
        try:
            with deadline.within(ASK_S):
                return await self._scorer.waiting(scope, reference) == 0
        except FathomError:
            return False


def shadow_reranks(
    scorer: QueuedScorer, store: DriftRows, audit: AuditLog, meter: ShadowMeter, gate: FairGate
) -> ShadowReranks:
    """The one that a gateway runs."""
    return ShadowReranks(scorer, store, Witnesses(audit, meter), Idleness(gate, scorer))
