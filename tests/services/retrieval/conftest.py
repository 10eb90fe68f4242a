"""A small published version, written straight with LanceDB, and a retriever over it."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS, BTree

from tenants.config import TenantConfig
from tenants.corpus.facets import facets
from tenants.corpus.schema import corpus_schema
from tenants.scope import Release, TenantScope

DIMENSION = 16


@dataclass(frozen=True)
class Row:
    document_id: str
    text: str
    vector: np.ndarray
    title: str = ""
    collection: str = "default"
    url: str | None = None
    updated_at: datetime | None = None
    metadata: dict | None = None


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class HashEncoder:
    """Seeds a unit vector with the text: enough here, because both sides of every comparison use the same one."""

    dimension = DIMENSION

    class info:  # noqa: N801 - stands where an encoder's info stands
        class recipe:  # noqa: N801
            query_prefix = ""

    def encode(self, texts):
        return np.stack([self.vector(text) for text in texts])

    @staticmethod
    def vector(text):
        return unit(np.random.default_rng(list(text.encode())).standard_normal(DIMENSION))


def corpus_table(rows):
    """`rows` as a table of the corpus schema; chunk i is called c_0000i."""
    records = [
        {
            "chunk_id": f"c_{number:05d}",
            "document_id": row.document_id,
            "collection": row.collection,
            "source": "test",
            "ordinal": 0,
            "title": row.title,
            "heading": "",
            "text": row.text,
            "lexical": "\n".join(part for part in (row.title, row.text) if part),
            "char_start": 0,
            "char_end": len(row.text),
            "page": None,
            "t_start_s": None,
            "url": row.url,
            "updated_at": row.updated_at,
            "metadata": json.dumps(row.metadata or {}),
            "facets": facets(row.metadata or {}),
            "document_digest": "d",
            "tokens": len(row.text.split()),
            "language": "en",
            "vector": row.vector.tolist(),
        }
        for number, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(records, schema=corpus_schema(len(rows[0].vector)))


async def publish(scope, rows, table="chunks_test"):
    """Write `rows` as a new version with its indices; returns the scope pinned to it."""
    db = await lancedb.connect_async(scope.corpus_uri)
    written = await db.create_table(table, corpus_table(rows), mode="overwrite")
    await written.create_index("lexical", config=FTS(base_tokenizer="icu", with_position=True))
    await written.create_index("document_id", config=BTree())
    release = Release(
        version=1,
        table=table,
        lance_version=await written.version(),
        fingerprint="f",
        embedder="builtin",
        dimension=len(rows[0].vector),
        published_at=datetime.now(UTC).isoformat(),
        documents=len({row.document_id for row in rows}),
        chunks=len(rows),
        tokens=0,
        manifest="m",
        manifest_digest="m",
        job_id="job_test",
    )
    return TenantScope(scope.tenant, scope.uid, scope.config, scope.root, release)


@pytest.fixture
def scope(tmp_path):
    return TenantScope("acme", "t_test", TenantConfig(), str(tmp_path))
