"""Chunks → chunks with vectors: the embedding stage, one encoder per process. Ray-free."""

from __future__ import annotations

import pyarrow as pa

from services.embedding.encoder import load_encoder
from tenants.corpus.schema import corpus_schema


class Embed:
    """Callable: a table of `chunk_schema()` in, one of `corpus_schema(dimension)` out, row for row.

    The arguments are those of `services.embedding.encoder.load_encoder`.
    """

    def __init__(
        self,
        reference: str,
        *,
        cache_dir: str,
        threads: int | None = None,
        device: str = "auto",
        registry: str | None = None,
    ) -> None:
        self._encoder = load_encoder(reference, cache_dir=cache_dir, threads=threads, device=device, registry=registry)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Embed `lexical` (title, heading and text); vectors are float32 unit rows."""
        vectors = self._encoder.encode_documents(table["lexical"].to_pylist())
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), self._encoder.dimension)
        schema = corpus_schema(self._encoder.dimension)
        return table.append_column("vector", column).select(schema.names).cast(schema)
