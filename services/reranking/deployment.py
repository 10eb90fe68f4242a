"""A cross-encoder as a Serve deployment, one per role: RerankerSmall and RerankerLarge, each with its own replicas.

`cluster/app.py` gives them replicas, shares of a GPU and autoscaling; this file knows only how one is asked and what it
counts. A replica whose built-in weights are absent starts all the same and says so to whoever asks for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ray import serve
from ray.util.metrics import Counter, Gauge, Histogram

from services import deadline
from services.contracts import CrossEncoderFacts, Passage, Scored
from services.handles import hold_to_loopback
from services.reranking.local import open_scorer
from services.settings import Settings
from tenants.scope import TenantScope

RETURN_S = 0.02  # what a part takes back to its caller, who waits no longer than it said
_FILL = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]


class RayMeter:
    """batching.Meter on Ray's Prometheus page."""

    def __init__(self) -> None:
        about = "Query-chunk pairs by where their logit came from: scored or cached"
        self._pairs = Counter("fathom_rerank_pairs_total", about, ("tenant", "model", "source"))
        self._queue = Gauge("fathom_rerank_queue_pairs", "Pairs that wait for a model", ("model",))
        self._fill = Histogram("fathom_rerank_batch_fill", "Tokens of a batch over its budget", _FILL, ("model",))

    def scored(self, tenant: str, model: str, pairs: int, cached: int) -> None:
        """See `batching.Meter`."""
        for source, count in (("scored", pairs - cached), ("cached", cached)):
            if count:
                self._pairs.inc(count, {"tenant": tenant, "model": model, "source": source})

    def batch(self, model: str, pairs: int, fill: float) -> None:
        """See `batching.Meter`."""
        self._fill.observe(fill, {"model": model})

    def queued(self, model: str, pairs: int) -> None:
        """See `batching.Meter`."""
        self._queue.set(pairs, {"model": model})


@serve.deployment
class RerankerDeployment:
    """One replica of one role; ready once loading the role's built-in model has ended."""

    def __init__(self, settings: Settings, builtin: str) -> None:
        hold_to_loopback(settings.host)
        self._scorer = open_scorer(settings, [builtin], RayMeter())
        self._scorer.wait()
        loop = asyncio.get_running_loop()
        self._chore = loop.create_task(self._scorer.follow_aliases(settings.reranking.alias_poll_s))

    async def facts(self, scope: TenantScope, reference: str, timeout_s: float | None) -> CrossEncoderFacts:
        """`contracts.PairScorer.facts` within `timeout_s` seconds."""
        if timeout_s is not None:
            deadline.start(timeout_s)
        return await self._scorer.facts(scope, reference)

    async def score(
        self,
        scope: TenantScope,
        reference: str,
        query: str,
        passages: Sequence[Passage],
        partial: bool,
        timeout_s: float | None,
    ) -> Scored:
        """`contracts.PairScorer.score` within `timeout_s` seconds."""
        if timeout_s is not None:
            deadline.start(timeout_s - RETURN_S if partial else timeout_s)
        return await self._scorer.score(scope, reference, query, passages, partial)

    async def waiting(self, scope: TenantScope, reference: str, timeout_s: float | None) -> int:
        """Pairs that wait for the model in this replica."""
        if timeout_s is not None:
            deadline.start(timeout_s)
        return await self._scorer.waiting(scope, reference)
