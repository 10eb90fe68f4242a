"""Shadow reranks: a share of the traffic is reranked in full after its reply, to see whether the certificate holds.

    offered → drawn by `shadow_rate` → waits for an idle scorer → full rerank → loss → e-process → audit, metrics

Never on the request path and never in its way: `offer` returns at once, at most ROOM questions wait (a newcomer
beyond that is dropped), one is at work at a time, and before each batch of pairs the scorer is asked whether it is
idle. Whether a question is drawn is decided by the digest of its id, so that it can be checked afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
from blake3 import blake3

from services.contracts import Candidates, Float32, Int32, PairScorer
from services.reranking import drift
from services.reranking.certificate import Certificate
from services.reranking.losses import fidelity_loss
from tenants.errors import FathomError
from tenants.scope import TenantScope

ROOM = 64
BATCH = 16
DEPTH = 100
IDLE_POLL_S = 0.05
PATIENCE_S = 60.0  # a busy scorer: the shadow is dropped, and the drawn share is smaller, not biased by load alone
_log = logging.getLogger("fathom.shadow")

Probability = Callable[[Float32], Float32]
Order = Callable[[Float32], Int32]


@dataclass(frozen=True, slots=True)
class Shown:
    """A question that was answered, with what its full rerank needs.

    order     (n,) int32 candidate rows as they were shown, best first
    rows      (m,) int32 the best fused rows, at most DEPTH: those that a full rerank scores
    logits    (n,) float32 of the large model, NaN = not scored
    reference the large model; `probability` its calibration; `group` and `certificate` (None = none held)
    """

    query_id: str
    text: str
    candidates: Candidates
    order: Int32
    rows: Int32
    logits: Float32
    reference: str
    probability: Probability
    group: str
    certificate: Certificate | None


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """What a shadow rerank found; it goes to the audit beside the question's record.

    `loss` is 1 − nDCG@10 of the shown order under the full rerank's probabilities; `pairs` were scored for it.
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
    """Where e-processes live (tenants/calibration_rows.py). Blocking."""

    def watch(self, scope: TenantScope, group: str, begin: drift.Drift, loss: float, at: str) -> drift.Drift:
        """Add one loss to the group's process, begun anew when it is of another certificate; atomic."""
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


def loss_of(shown: Shown, logits: Float32) -> float:
    """Label-free fidelity loss; rows that a full rerank does not score have no gain. logits (n,), NaN = not scored."""
    gains = np.nan_to_num(shown.probability(logits), nan=0.0)
    return fidelity_loss(shown.order, gains)


class ShadowReranks:
    """contracts of `Shadow`, on the event loop of the process that serves. `idle()` says that no question waits."""

    def __init__(
        self, scorer: PairScorer, store: DriftStore, witness: Witness, idle: Callable[[], Awaitable[bool]]
    ) -> None:
        self._scorer = scorer
        self._store = store
        self._witness = witness
        self._idle = idle
        self._waiting: asyncio.Queue[tuple[TenantScope, Shown]] = asyncio.Queue(ROOM)
        self._worker: asyncio.Task[None] | None = None
        self.dropped = 0

    def offer(self, scope: TenantScope, shown: Shown) -> None:
        """See `Shadow`."""
        if not len(shown.order) or not drawn(shown.query_id, scope.config.shadow_rate):
            return
        try:
            self._waiting.put_nowait((scope, shown))
        except asyncio.QueueFull:
            self.dropped += 1
            return
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def settle(self) -> None:
        """Wait until nothing is left to do; for tests and a tidy end."""
        await self._waiting.join()

    async def close(self) -> None:
        """Give up what waits."""
        if self._worker is not None:
            self._worker.cancel()

    async def _work(self) -> None:
        while not self._waiting.empty():
            scope, shown = self._waiting.get_nowait()
            try:
                await self._one(scope, shown)
            except FathomError as error:
                _log.info("a shadow rerank was given up: %s", error.detail)
            finally:
                self._waiting.task_done()

    async def _one(self, scope: TenantScope, shown: Shown) -> None:
        scored = await self._full(scope, shown)
        if scored is None:
            self.dropped += 1
            return
        logits, pairs = scored
        loss, at = loss_of(shown, logits), datetime.now(UTC).isoformat(timespec="seconds")
        certificate = shown.certificate
        state = drift.begin("", 1.0)
        if certificate is not None:
            begun = drift.begin(certificate.certificate_id, certificate.watch)
            state = await asyncio.to_thread(self._store.watch, scope, shown.group, begun, loss, at)
        name = certificate.certificate_id if certificate else None
        alarmed = state.alarmed_at is not None
        result = ShadowResult(shown.query_id, shown.group, name, loss, pairs, state.wealth, alarmed, at)
        await self._witness.shadowed(scope, result)

    async def _full(self, scope: TenantScope, shown: Shown) -> tuple[Float32, int] | None:
        """((n,) logits, pairs scored); None when the scorer stayed busy."""
        logits = shown.logits.copy()
        missing = [int(row) for row in shown.rows if np.isnan(logits[row])]
        for start in range(0, len(missing), BATCH):
            if not await self._quiet():
                return None
            some = missing[start : start + BATCH]
            passages = [shown.candidates.passages[row] for row in some]
            logits[some] = (await self._scorer.score(scope, shown.reference, shown.text, passages)).logits
        return logits, len(missing)

    async def _quiet(self) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while not await self._idle():
            if loop.time() > until:
                return False
            await asyncio.sleep(IDLE_POLL_S)
        return True
