"""Opens a `LocalScorer` from the settings; its built-in models are being loaded. For the shells that run one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from services.models import pinned
from services.reranking.batching import Meter, PairBatcher
from services.reranking.cache import LogitCache, MemoryCache, TieredCache
from services.reranking.cross_encoder import load_cross_encoder
from services.reranking.observed import ObservedCost
from services.reranking.scorer import LocalScorer
from services.reranking.served import CrossEncoder, ServedModels, is_alias
from services.settings import Settings


class Uncounted:
    """batching.Meter of a job or a command: nobody looks at its counters."""

    def scored(self, tenant: str, model: str, pairs: int, cached: int) -> None:
        """See `batching.Meter`."""

    def batch(self, model: str, pairs: int, fill: float) -> None:
        """See `batching.Meter`."""

    def queued(self, model: str, pairs: int) -> None:
        """See `batching.Meter`."""


def open_scorer(settings: Settings, preload: Sequence[str], meter: Meter) -> LocalScorer:
    """Loads `preload` in the background, other references on first use. A model that is absent is no error here."""
    load = partial(
        load_cross_encoder,
        cache_dir=settings.model_cache,
        threads=settings.reranking.threads or settings.cpu_threads,
        device=settings.device,
        registry=settings.registry,
    )
    models = ServedModels(
        load, partial(_pin, settings.registry), partial(_batcher, settings, meter), limit=settings.reranking.models
    )
    scorer = LocalScorer(models, open_cache(settings), meter)
    scorer.preload(preload)
    return scorer


def open_cache(settings: Settings) -> LogitCache:
    """In memory, with Redis behind it where the settings name one."""
    near = MemoryCache(settings.reranking.cache_bytes)
    if settings.redis_url is None:
        return near
    from services.reranking.redis_cache import RedisCache  # its client is an extra

    return TieredCache(near, RedisCache(settings.redis_url))


def _pin(registry: str | None, reference: str) -> str:
    return pinned(reference, registry=registry) if is_alias(reference) else reference


def _batcher(settings: Settings, meter: Meter, reference: str, model: CrossEncoder, cost: ObservedCost) -> PairBatcher:
    sizes = settings.reranking
    return PairBatcher(
        reference,
        model,
        budget_tokens=sizes.batch_tokens,
        queue_pairs=sizes.queue_pairs,
        meter=meter,
        cost=cost,
    )
