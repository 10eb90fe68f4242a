"""A deterministic embedder for tests of the write path."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from tenants.corpus import release as releases
from tenants.corpus.schema import corpus_schema
from tenants.corpus.table import open_release

DIMENSION = 384


class HashEmbed:
    """Unit vectors seeded by a digest of the text, of the builtin encoder's length.

    It suffices where only identity matters: equal texts get equal vectors, different ones different vectors, and
    the write path never looks inside. `calls` counts embedded rows, to prove that unchanged documents cost none.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, table: pa.Table) -> pa.Table:
        self.calls += table.num_rows
        vectors = np.zeros((table.num_rows, DIMENSION), np.float32)
        for row, text in enumerate(table["lexical"].to_pylist()):
            seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
            vectors[row] = np.random.default_rng(seed).normal(size=DIMENSION)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION)
        schema = corpus_schema(DIMENSION)
        return table.append_column("vector", column).select(schema.names).cast(schema)


def rows_of(bench: Any) -> pa.Table:
    """The published rows as a table."""
    return open_release(bench.scope, releases.current(bench.scope)).to_table()
