"""Opens a `LocalRetriever` from the settings, its default embedder loaded. For the shells that run one."""

from __future__ import annotations

import os
from functools import partial

from services.embedding.encoder import load_encoder
from services.embedding.queries import QueryEncoder
from services.models import BUILTIN
from services.retrieval.search import LocalRetriever
from services.settings import Settings


def open_retriever(settings: Settings) -> LocalRetriever:
    """Ready to answer: the built-in embedder is compiled and warm. Other embedders load on first use."""
    load = partial(
        load_encoder,
        cache_dir=settings.model_cache,
        threads=threads(settings),
        device=settings.device,
        registry=settings.registry,
    )
    builtin = load(BUILTIN)
    builtin.encode(["warm up"])
    calls_at_once = settings.retrieval.embed_threads
    encoders = QueryEncoder(lambda model: builtin if model == BUILTIN else load(model), threads=calls_at_once)
    return LocalRetriever(encoders, settings.retrieval)


def threads(settings: Settings) -> int:
    """Threads of one encoder: as set, else the machine's cores."""
    return settings.cpu_threads or os.cpu_count() or 1
