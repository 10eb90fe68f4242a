"""Mining as Ray Data jobs: documents → chunks with vectors → questions → hard negatives. The only Ray of training.

The corpus's vectors are shared through the object store; every miner holds the encoder and the exact index. Users'
questions (`search_on_ray`) go to their tenant's published index instead, which every worker opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray

from jobs.evaluation.memory_index import MemoryIndex
from jobs.indexing.pipeline import connect
from jobs.training.mining import Corpus, Mined, Miner, chunked, corpus_of, passage_table
from jobs.training.searching import Searcher
from jobs.training.sources import Judged, Source
from services.embedding.encoder import Encoder, load_encoder
from services.settings import Settings
from tenants.scope import TenantScope

DOCUMENTS_PER_BATCH = 256
QUESTIONS_PER_BATCH = 512
SEARCHES_PER_BATCH = 64
_CPUS = 0.5  # logical: an encoder uses all cores of its node


def mine_on_ray(source: Source, embedder: str, settings: Settings) -> Mined:
    """Mine one source on the cluster that the settings name, or on a Ray of this machine's own."""
    connect(settings)
    corpus = _corpus(source, embedder, settings)
    shared = ray.put(corpus)
    rows = [{"number": number, "question": one.to_json()} for number, one in enumerate(source.questions)]
    mined = (
        ray.data.from_arrow(pa.Table.from_pylist(rows))
        .repartition(_blocks(len(rows), QUESTIONS_PER_BATCH))
        .map_batches(
            _Mine,
            fn_constructor_args=(shared, source.reserved, embedder, settings),
            batch_size=QUESTIONS_PER_BATCH,
            **_actors(settings),
        )
    )
    passages = passage_table(corpus.passages, source.reserved)
    return Mined(source.name, source.digest, source.licence, passages, _ordered(mined))


def search_on_ray(texts: Sequence[str], scope: TenantScope, settings: Settings) -> pa.Table:
    """What one tenant's published index finds for its users' questions: `searching.FOUND`, in their order."""
    connect(settings)
    table = pa.table({"number": range(len(texts)), "text": list(texts)})
    found = (
        ray.data.from_arrow(table)
        .repartition(_blocks(len(texts), SEARCHES_PER_BATCH))
        .map_batches(_Search, fn_constructor_args=(scope, settings), batch_size=SEARCHES_PER_BATCH, **_actors(settings))
    )
    return pa.concat_tables(table for table in ray.get(found.to_arrow_refs()) if table.num_rows).sort_by("number")


def _corpus(source: Source, embedder: str, settings: Settings) -> Corpus:
    rows = [
        {"_id": str(one["_id"]), "title": str(one.get("title") or ""), "text": str(one["text"]), "number": number}
        for number, one in enumerate(source.documents)
    ]
    chunks = (
        ray.data.from_arrow(pa.Table.from_pylist(rows))
        .repartition(_blocks(len(rows), DOCUMENTS_PER_BATCH))
        .map_batches(
            _Embed, fn_constructor_args=(embedder, settings), batch_size=DOCUMENTS_PER_BATCH, **_actors(settings)
        )
    )
    return corpus_of(_ordered(chunks, "ordinal"))


class _Embed:
    """Chunks and embeds; holds one encoder for the life of its actor."""

    def __init__(self, embedder: str, settings: Settings) -> None:
        self._encoder = _encoder(embedder, settings)

    def __call__(self, documents: pa.Table) -> pa.Table:
        return chunked(self._encoder, documents.to_pylist())


class _Mine:
    """Searches the shared corpus; holds one index for the life of its actor."""

    def __init__(self, corpus: Any, reserved: frozenset[str], embedder: str, settings: Settings) -> None:
        found: Corpus = ray.get(corpus)
        encoder = _encoder(embedder, settings)
        self._miner = Miner(MemoryIndex(encoder, (), (found.passages, found.vectors)), reserved)

    def __call__(self, questions: pa.Table) -> pa.Table:
        found = self._miner.mine([Judged.from_json(text) for text in questions["question"].to_pylist()])
        return found.append_column("number", questions["number"])


class _Search:
    """Asks one tenant's index; holds one retriever for the life of its actor."""

    def __init__(self, scope: TenantScope, settings: Settings) -> None:
        self._searcher = Searcher(scope, settings)

    def __call__(self, questions: pa.Table) -> pa.Table:
        return self._searcher.search(questions["number"].to_pylist(), questions["text"].to_pylist())


def _encoder(embedder: str, settings: Settings) -> Encoder:
    return load_encoder(
        embedder,
        cache_dir=settings.model_cache,
        threads=settings.cpu_threads,
        device=settings.device,
        registry=settings.registry,
    )


def _actors(settings: Settings) -> dict[str, Any]:
    """One encoder a GPU where there are any, else one a node."""
    gpus = 0 if settings.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
    nodes = sum(bool(node["Alive"]) and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    return {
        "batch_format": "pyarrow",
        "num_cpus": _CPUS,
        "num_gpus": settings.encoder_gpus if gpus else 0,
        "compute": ray.data.ActorPoolStrategy(size=gpus or max(1, nodes)),
    }


def _ordered(dataset: Any, *within: str) -> pa.Table:
    """All rows by `number`, which is dropped, then by `within`: Ray Data may give blocks in any order."""
    tables = [table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows]
    keys = [(name, "ascending") for name in ("number", *within)]
    return pa.concat_tables(tables).sort_by(keys).drop_columns(["number"])


def _blocks(rows: int, per_block: int) -> int:
    return max(1, -(-rows // per_block))
