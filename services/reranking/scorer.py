"""contracts.PairScorer in this process: cache, stored token ids, models by reference, batches across requests.

The line of one call: lease the model → token ids (stored ones where they are this tokenizer's) → cache → the model's
queue → cache. What was computed before a deadline passed is kept: the next question finds it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np

from services import deadline
from services.contracts import Bool, CrossEncoderFacts, Float32, Passage, Scored
from services.reranking.batching import Meter
from services.reranking.cache import LogitCache, pair_keys
from services.reranking.served import Served, ServedModels
from services.retrieval.lexical import lexical, readable
from tenants.errors import DeadlineExceeded
from tenants.scope import TenantScope

LOADING_S = 0.1
MARGIN_S = 0.01  # before its deadline a call that takes a part returns with it
INLINE_CHARS = 16 * 1024  # more text than this is tokenised in a thread: the event loop belongs to everybody


class LocalScorer:
    """One instance per process, used from one event loop."""

    def __init__(self, models: ServedModels, cache: LogitCache, meter: Meter) -> None:
        self._models = models
        self._cache = cache
        self._meter = meter

    async def facts(self, scope: TenantScope, reference: str) -> CrossEncoderFacts:
        """See `contracts.PairScorer`. Who has a deadline does not wait for a load, who has none does."""
        with deadline.within(math.inf if math.isinf(deadline.remaining_s()) else LOADING_S):
            async with _in_time(reference), self._models.lease(reference) as model:
                return model.cost.facts()

    async def score(
        self, scope: TenantScope, reference: str, query: str, passages: Sequence[Passage], partial: bool = False
    ) -> Scored:
        """See `contracts.PairScorer`."""
        started = time.perf_counter()
        async with _in_time(reference), self._models.lease(reference) as model:
            logits, cached = await self._logits(model, scope, query, passages, partial)
        self._meter.scored(scope.tenant, reference, int((~np.isnan(logits)).sum()), int(cached.sum()))
        return Scored(logits, cached, (time.perf_counter() - started) * 1000, model.facts.revision)

    async def waiting(self, scope: TenantScope, reference: str) -> int:
        """Pairs that wait for the model now: work that may wait itself asks first."""
        async with _in_time(reference), self._models.lease(reference) as model:
            return model.batcher.waiting

    async def follow_aliases(self, every_s: float) -> None:
        """Look at the registry for as long as this runs; an outage of it leaves the models that are there."""
        while True:
            await asyncio.sleep(every_s)
            await self._models.refresh()

    def preload(self, references: Sequence[str]) -> None:
        """Start loading; returns at once."""
        self._models.preload(references)

    def wait(self, limit_s: float | None = None) -> None:
        """Block until what is being loaded has ended, well or not, or for `limit_s`."""
        self._models.wait(limit_s)

    def close(self) -> None:
        """Let the workers end."""
        self._models.close()

    async def _logits(
        self, model: Served, scope: TenantScope, query: str, passages: Sequence[Passage], partial: bool
    ) -> tuple[Float32, Bool]:
        asked, ids = await _token_ids(model, scope, query, passages)
        owners = [passage.owner or scope.uid for passage in passages]
        keys = pair_keys(owners, model.facts, asked, ids)
        logits = await self._cache.get(keys)
        cached = ~np.isnan(logits)
        missing = np.flatnonzero(~cached)
        if missing.size:
            rows = missing.tolist()
            logits[missing] = await self._compute(
                model, scope, [(asked, ids[row]) for row in rows], [keys[row] for row in rows], partial
            )
        return logits, cached

    async def _compute(
        self,
        model: Served,
        scope: TenantScope,
        pairs: Sequence[tuple[bytes, bytes]],
        keys: Sequence[bytes],
        partial: bool,
    ) -> Float32:
        with model.batcher.submitted(scope.uid, pairs) as job:
            try:
                return await (job.wait_until(deadline.remaining_s() - MARGIN_S) if partial else job.wait())
            finally:
                known = np.flatnonzero(~np.isnan(job.logits)).tolist()
                await self._cache.put([keys[row] for row in known], job.logits[known])


async def _token_ids(
    model: Served, scope: TenantScope, query: str, passages: Sequence[Passage]
) -> tuple[bytes, list[bytes]]:
    """The token ids of the question and of every passage."""
    mine = {owner: scope.tokenizer_of(owner) == model.facts.tokenizer for owner in {one.owner for one in passages}}
    stored = [passage.token_ids if mine[passage.owner] else b"" for passage in passages]
    unread = [row for row, ids in enumerate(stored) if not ids]
    texts = [readable(query), *(_text(passages[row]) for row in unread)]
    if sum(map(len, texts)) <= INLINE_CHARS:
        made = model.tokenizer.ids(texts)
    else:
        made = await asyncio.to_thread(model.tokenizer.ids, texts)
    for row, ids in zip(unread, made[1:], strict=True):
        stored[row] = ids
    return made[0], stored


@asynccontextmanager
async def _in_time(reference: str) -> AsyncIterator[None]:
    """Within the deadline, also while a model loads. Raises `DeadlineExceeded` that names the model."""
    try:
        async with deadline.enforced():
            yield
    except DeadlineExceeded:
        detail = f"the reranker {reference} did not answer in time; try again"
        raise DeadlineExceeded(detail, retry_after_s=1) from None


def _text(passage: Passage) -> str:
    return lexical(passage.title, passage.heading, passage.text)
