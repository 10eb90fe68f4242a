"""Shadow reranks: a share of the traffic is reranked in full after its reply, to see whether the certificate holds.

    offered → drawn by `shadow_rate` → waits for an idle scorer → full rerank → loss → e-process → audit, metrics

Never on the request path and never in its way: `offer` returns at once, at most ROOM questions wait (a newcomer
beyond that is dropped), one is at work at a time, and each small batch of pairs waits until nobody else's wait.
Whether a question is drawn is decided by the digest of its id, so that it can be checked afterwards. The loss counts
in the e-process only where a certificate was promised for the question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import numpy as np
from blake3 import blake3

from services import deadline
from services.afterwards import Afterwards, quiet
from services.contracts import Candidates, Float32, Int32, PairScorer
from services.reranking import drift
from services.reranking.certificate import Certificate
from services.reranking.facts import Float64
from services.reranking.losses import fidelity_loss
from tenants.scope import TenantScope

BATCH = 16
DEPTH = 100
SCORE_S = 60.0

Gains = Callable[[Float32], Float64]
Idle = Callable[[TenantScope, str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Shown:
    """A question that was answered, with what its full rerank needs.

    order     (n,) int32 candidate rows as they were shown, best first
    rows      (m,) int32 the best fused rows, at most DEPTH: those that a full rerank scores
    logits    (n,) float32 of the large model, NaN = not scored; `reference` names it
    gains     all large logits (n,) → (n,) probabilities of relevance under the full rerank; pure
    group, certificate   the one that was promised; None = nothing was
    """

    query_id: str
    text: str
    candidates: Candidates
    order: Int32
    rows: Int32
    logits: Float32
    reference: str
    gains: Gains
    group: str
    certificate: Certificate | None


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """What a shadow rerank found; it goes to the audit beside the question's record.

    `loss` is losses.py's fidelity; `pairs` were scored for it; `wealth` is the e-process's, 1 without a certificate.
    """

    query_id: str
    group: str
    certificate: str | None
    loss: float
    pairs: int
    wealth: float
    alarmed: bool
    at: str


class Shadow(Protocol):
    """Takes every answered question; never raises, never waits."""

    def offer(self, scope: TenantScope, shown: Shown) -> None:
        """Called after the reply."""
        ...


class NoShadow:
    """For evaluations and the CLI: their questions are not traffic."""

    def offer(self, scope: TenantScope, shown: Shown) -> None:
        """Nothing happens."""


class DriftStore(Protocol):
    """Where e-processes live: tenants/calibration_rows.py. Blocking."""

    def change_drift(
        self, tenant: TenantScope, group: str, change: Callable[[Mapping[str, Any] | None], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Replace the group's drift by `change(old or None)`, atomically; gives the new one."""
        ...


class Witness(Protocol):
    """Hears of every shadow rerank: metrics, log, audit."""

    async def shadowed(self, scope: TenantScope, result: ShadowResult) -> None:
        """May raise `FathomError`, which is logged."""
        ...


def drawn(query_id: str, rate: float) -> bool:
    """True for a share `rate` of ids: the first 53 bits of the id's blake3 digest, over 2^53, lie below it."""
    number = int.from_bytes(blake3(query_id.encode()).digest(8), "big") >> 11
    return number / (1 << 53) < rate


def watched(old: Mapping[str, Any] | None, certificate: Certificate, loss: float, at: str) -> drift.Drift:
    """One more loss in the group's process, which begins anew with every certificate."""
    known = drift.Drift.from_json(old) if old is not None else None
    if known is None or known.certificate != certificate.certificate_id:
        known = drift.begin(certificate.certificate_id, certificate.watch)
    return drift.watch(known, loss, at)


class ShadowReranks(Afterwards[tuple[TenantScope, Shown]]):
    """`Shadow` on the event loop of the process that serves; `idle` says that no question waits for the model."""

    def __init__(self, scorer: PairScorer, store: DriftStore, witness: Witness, idle: Idle) -> None:
        super().__init__(self._one, "a shadow rerank")
        self._scorer = scorer
        self._store = store
        self._witness = witness
        self._idle = idle

    def offer(self, scope: TenantScope, shown: Shown) -> None:
        """See `Shadow`."""
        if len(shown.order) and drawn(shown.query_id, scope.config.shadow_rate):
            self.put((scope, shown))

    async def _one(self, item: tuple[TenantScope, Shown]) -> bool:
        scope, shown = item
        scored = await self._full(scope, shown)
        if scored is None:
            return False
        logits, pairs = scored
        gains = await asyncio.to_thread(shown.gains, logits)
        loss, at = fidelity_loss(shown.order, gains), datetime.now(UTC).isoformat(timespec="seconds")
        state = None
        if shown.certificate is not None:
            state = await asyncio.to_thread(self._watched, scope, shown, shown.certificate, loss, at)
        await self._witness.shadowed(scope, _result(shown, loss, pairs, state, at))
        return True

    def _watched(self, scope: TenantScope, shown: Shown, certificate: Certificate, loss: float, at: str) -> drift.Drift:
        def change(old: Mapping[str, Any] | None) -> Mapping[str, Any]:
            return watched(old, certificate, loss, at).to_json()

        return drift.Drift.from_json(self._store.change_drift(scope, shown.group, change))

    async def _full(self, scope: TenantScope, shown: Shown) -> tuple[Float32, int] | None:
        """((n,) logits, pairs scored); None when the scorer stayed busy."""
        logits = shown.logits.copy()
        missing = [int(row) for row in shown.rows if np.isnan(logits[row])]
        for start in range(0, len(missing), BATCH):
            if not await quiet(partial(self._idle, scope, shown.reference)):
                return None
            some = missing[start : start + BATCH]
            passages = [shown.candidates.passages[row] for row in some]
            with deadline.within(SCORE_S):
                logits[some] = (await self._scorer.score(scope, shown.reference, shown.text, passages)).logits
        return logits, len(missing)


def _result(shown: Shown, loss: float, pairs: int, state: drift.Drift | None, at: str) -> ShadowResult:
    name = shown.certificate.certificate_id if shown.certificate else None
    wealth, alarmed = (state.wealth, state.alarmed_at is not None) if state else (1.0, False)
    return ShadowResult(shown.query_id, shown.group, name, loss, pairs, wealth, alarmed, at)
