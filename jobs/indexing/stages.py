"""The stages of the index line on one shard: parse, chunk, embed, write. Ray-free; the same code inline and on workers.

A shard travels as a `Parcel`, which keeps it whole: what could not be parsed and the time that each stage took go
along with the rows, so that a shard without rows still leaves its receipt.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from jobs.indexing.chunk import chunk_batch
from jobs.indexing.embed import Embed
from jobs.indexing.job import Receipt
from jobs.indexing.pair_ids import pair_tokenizer, with_token_ids
from jobs.indexing.parse import parse_batch
from jobs.indexing.plan import load_shard
from jobs.indexing.write import write_shard
from services.embedding.encoder import describe_encoder
from services.settings import Limits
from tenants.config import Chunking
from tenants.corpus.objects import open_objects
from tenants.ids import TenantUid

DocumentRow = tuple[str, str, str, str, int, int]
ErrorRow = tuple[str, str, str, str]

PARCEL_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("rows", pa.large_binary(), nullable=False),
        pa.field("about", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class LineContext:
    """What every stage needs to know; small, because it travels with every task.

    `base` is the tenant's folder, `folder` the job's below it. `allow` are the URL prefixes that may be read, None
    any (the operator's own job). `embedder` is a model reference, `cache_dir` a local
    folder for its compiled form, `threads` of one encoder (None = all cores), `registry` the MLflow address that
    `models:/…` is read from. `reranker` is the cross-encoder whose token ids are stored.
    """

    uid: TenantUid
    base: str
    folder: str
    table_uri: str
    fingerprint: str
    chunking: Chunking
    limits: Limits
    allow: tuple[str, ...] | None
    embedder: str
    cache_dir: str
    threads: int | None
    device: str
    reranker: str
    registry: str | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """Shard `shard` between two stages: `table` has the schema of the stage it leaves.

    `tokenizer` is the digest of the tokenizer whose ids the rows hold, "" = they hold none.
    """

    shard: int
    table: pa.Table
    documents: tuple[DocumentRow, ...] = ()
    errors: tuple[ErrorRow, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    tokenizer: str = ""

    def to_arrow(self) -> pa.Table:
        """One row of `PARCEL_SCHEMA`."""
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        about = json.dumps([self.documents, self.errors, self.seconds, self.tokenizer])
        return pa.Table.from_pylist(
            [{"shard": self.shard, "rows": sink.getvalue(), "about": about}], schema=PARCEL_SCHEMA
        )

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Parcel:
        """The reverse of `to_arrow`."""
        with pa.ipc.open_stream(table["rows"][0].as_buffer()) as reader:
            rows = reader.read_all()
        documents, errors, seconds, tokenizer = json.loads(table["about"][0].as_py())
        kept = tuple(map(tuple, documents)), tuple(map(tuple, errors))
        return cls(table["shard"][0].as_py(), rows, *kept, seconds, tokenizer)


def parse_shard(shard: int, context: LineContext) -> Parcel:
    """Load a shard's documents and parse them; what fails becomes an error row."""
    source = load_shard(context.folder, shard, open_objects(context.base))
    return parse_source(source, shard, context)


def parse_source(source: pa.Table, shard: int, context: LineContext) -> Parcel:
    """Parse a table of `SOURCE_SCHEMA`."""
    started = time.perf_counter()
    parsed, failures = parse_batch(source, context.limits, allow=context.allow)
    origin = dict(zip(source["document_id"].to_pylist(), source["source"].to_pylist(), strict=True))
    sizes = dict(zip(source["document_id"].to_pylist(), source["size"].to_pylist(), strict=True))
    columns = ("document_id", "source", "collection", "document_digest")
    rows = zip(*(parsed[name].to_pylist() for name in columns), strict=True)
    documents = tuple((*row, sizes.get(row[0], 0), 0) for row in rows)
    errors = tuple(
        (row["document_id"], origin.get(row["document_id"], ""), row["reason"], row["message"])
        for row in failures.to_pylist()
    )
    return Parcel(shard, parsed, documents, errors, {"parse": time.perf_counter() - started})


def chunk_parcel(parcel: Parcel, context: LineContext) -> Parcel:
    """Parsed documents → chunks with their token ids, and each document's number of them."""
    started = time.perf_counter()
    tokenizer = describe_encoder(context.embedder, registry=context.registry).tokenizer_json
    chunks = chunk_batch(parcel.table, context.chunking, tokenizer, context.uid, context.fingerprint)
    pairs = pair_tokenizer(context.reranker, registry=context.registry)
    counts = {entry["values"]: entry["counts"] for entry in chunks["document_id"].value_counts().to_pylist()}
    documents = tuple((*row[:5], counts.get(row[0], 0)) for row in parcel.documents)
    chunks, digest = with_token_ids(chunks, pairs), pairs.digest if pairs else ""
    spent = {**parcel.seconds, "chunk": time.perf_counter() - started}
    return replace(parcel, table=chunks, documents=documents, seconds=spent, tokenizer=digest)


def embed_parcel(parcel: Parcel, embed: Callable[[pa.Table], pa.Table]) -> Parcel:
    """Chunks → chunks with vectors."""
    started = time.perf_counter()
    embedded = embed(parcel.table)
    return replace(parcel, table=embedded, seconds={**parcel.seconds, "embed": time.perf_counter() - started})


def write_parcel(parcel: Parcel, context: LineContext) -> Receipt:
    """Embedded chunks → uncommitted fragments and the shard's receipt."""
    return write_shard(
        parcel.table,
        parcel.documents,
        parcel.errors,
        parcel.seconds,
        table_uri=context.table_uri,
        objects=open_objects(context.base),
        folder=context.folder,
        shard=parcel.shard,
        tokenizer=parcel.tokenizer,
    )


def load_embed(context: LineContext) -> Embed:
    """The embedding stage of this process; loading a model takes about a second."""
    return Embed(
        context.embedder,
        cache_dir=context.cache_dir,
        threads=context.threads,
        device=context.device,
        registry=context.registry,
    )


def run_inline(shards: Sequence[int], context: LineContext, embed: Any = None) -> Iterator[Receipt]:
    """The line in this process, shard by shard: for small jobs, where workers would take longer to start."""
    loaded = embed or load_embed(context)
    for shard in shards:
        parcel = chunk_parcel(parse_shard(shard, context), context)
        yield write_parcel(embed_parcel(parcel, loaded), context)
