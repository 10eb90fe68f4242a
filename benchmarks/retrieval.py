"""Retrieval without reranking: both legs, the hybrid without and with labels, and an independent BM25.

    python benchmarks/retrieval.py --data FOLDER [--sets cosqa cranfield] [--cache FOLDER] [--queries 300]

FOLDER holds sets in the BEIR layout. Every set is chunked, embedded and indexed by the code that serves, and asked
through `LocalRetriever`; figures are nDCG@10 grouped by document. Vectors are kept in --cache by the text's digest.
Prints a table and writes docs/results/retrieval.md. Nothing is fitted here but the labels column, and that only
across folds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import bm25s
import lance
import numpy as np
import pyarrow as pa

from jobs.evaluation.datasets import Dataset, load_dataset, read_jsonl
from jobs.evaluation.fusion_learning import Learned, judge, learn_from_labels, learn_profile
from jobs.evaluation.metrics import ndcg
from jobs.indexing.chunk import chunk_batch
from jobs.indexing.schemas import PARSED_SCHEMA
from services.contracts import Float32
from services.embedding.encoder import Encoder, load_encoder
from services.embedding.queries import QueryEncoder
from services.retrieval.fusion import FusionProfile
from services.retrieval.search import LocalRetriever
from tenants.config import TenantConfig
from tenants.corpus.indices import refresh
from tenants.corpus.schema import corpus_schema
from tenants.ids import TenantName, TenantUid, text_digest
from tenants.scope import Release, TenantScope

SETS = {"medquad": "dev", "vespa_docs": "dev", "cosqa": "dev", "cranfield": "test", "vaswani_npl": "test"}
TABLE = "chunks_benchmark"


@dataclass(frozen=True)
class Figures:
    """One set's row of the table."""

    name: str
    chunks: int
    learned: Learned
    independent: float

    @property
    def better_leg(self) -> float:
        """nDCG@10 of the better of our two legs."""
        return max(self.learned.sparse, self.learned.dense)


def parsed_table(corpus: Path) -> pa.Table:
    rows = [
        {
            "document_id": str(row["_id"]),
            "source": "benchmark",
            "collection": "default",
            "title": row.get("title") or "",
            "text": row["text"],
            "spans": [],
            "format": "text",
            "metadata": "{}",
            "document_digest": text_digest(row["text"]),
            "language": "en",
        }
        for row in read_jsonl(corpus)
    ]
    return pa.Table.from_pylist(rows, schema=PARSED_SCHEMA)


def embedded(texts: Sequence[str], encoder: Encoder, cache: Path) -> Float32:
    """(n, d) float32; only texts that no earlier run embedded cost anything."""
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / f"vectors-{encoder.fingerprint[:12]}.npz"
    known: dict[str, Float32] = {}
    if file.exists():
        stored = np.load(file)
        known = dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))
    keys = [text_digest(text) for text in texts]
    missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
    for start in range(0, len(missing), 2_048):
        part = missing[start : start + 2_048]
        known |= zip([key for key, _ in part], encoder.encode([text for _, text in part]), strict=True)
        np.savez(file, keys=np.array(list(known)), vectors=np.stack(list(known.values())))
        print(f"  embedded {min(start + 2_048, len(missing))} of {len(missing)}", flush=True)
    return np.stack([known[key] for key in keys])


def published(root: str, chunks: pa.Table, vectors: Float32) -> TenantScope:
    scope = TenantScope(TenantName("bench"), TenantUid("t_bench"), TenantConfig(), root)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    schema = corpus_schema(vectors.shape[1])
    table = chunks.append_column("vector", column).select(schema.names).cast(schema)
    dataset, index = refresh(lance.write_dataset(table, f"{scope.corpus_uri}/{TABLE}.lance"), ("en",), None)
    release = Release(
        1, TABLE, dataset.version, "benchmark", "builtin", vectors.shape[1], "", 0, table.num_rows, 0, "", "", "",
        {"vector_index": index.to_json()},
    )  # fmt: skip
    return TenantScope(scope.tenant, scope.uid, scope.config, root, release)


async def learned(scope: TenantScope, data: Dataset, encoder: Encoder) -> Learned:
    retriever = LocalRetriever(QueryEncoder(lambda _: encoder))
    profile = FusionProfile.from_json(learn_profile(scope)["fusion"])
    try:
        items = [(text, data.judgements[query]) for query, text in data.queries.items()]
        return learn_from_labels([await judge(retriever, scope, text, grades, profile) for text, grades in items])
    finally:
        await retriever.close()


def independent(chunks: pa.Table, data: Dataset) -> float:
    """bm25s (Lucene's variant, English stop words) over the same chunks, grouped by document."""
    owner = chunks["document_id"].to_pylist()
    index = bm25s.BM25(method="lucene")
    index.index(bm25s.tokenize(chunks["lexical"].to_pylist(), stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(data.queries.values()), stopwords="en", show_progress=False)
    rows, _ = index.retrieve(tokens, k=min(100, len(owner)), show_progress=False)
    values = []
    for query, found in zip(data.queries, rows, strict=True):
        values.append(ndcg(list(dict.fromkeys(owner[row] for row in found)), data.judgements[query], 10))
    return float(np.mean(values))


def measure(folder: Path, split: str, encoder: Encoder, cache: Path, limit: int | None) -> Figures:
    data = load_dataset(folder / "queries.jsonl.gz", folder / "qrels" / f"{split}.tsv")
    kept = dict(list(data.queries.items())[:limit])
    data = Dataset(kept, {query: data.judgements[query] for query in kept}, data.digest)
    parsed = parsed_table(folder / "corpus.jsonl.gz")
    chunks = chunk_batch(parsed, TenantConfig().chunking, encoder.tokenizer_json, TenantUid("t_bench"), "benchmark")
    vectors = embedded(chunks["lexical"].to_pylist(), encoder, cache / folder.name)
    with tempfile.TemporaryDirectory(prefix="fathom-bench-") as root:
        scope = published(root, chunks, vectors)
        found = asyncio.run(learned(scope, data, encoder))
    return Figures(folder.name, chunks.num_rows, found, independent(chunks, data))


def table_of(figures: Sequence[Figures]) -> str:
    lines = [
        "| set | queries | chunks | bm25s | BM25 | dense | hybrid, no labels | − better leg | weight | hybrid, labels "
        "| − better leg |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in figures:
        found, leg = one.learned, one.better_leg
        lines.append(
            f"| {one.name} | {found.queries} | {one.chunks} | {one.independent:.4f} | {found.sparse:.4f} "
            f"| {found.dense:.4f} | {found.free:.4f} | {found.free - leg:+.4f} | {found.weight_free:.2f} "
            f"| {found.labels:.4f} | {found.labels - leg:+.4f} |"
        )
    free = float(np.mean([one.learned.free - one.better_leg for one in figures]))
    labels = float(np.mean([one.learned.labels - one.better_leg for one in figures]))
    lines.append(f"| mean | | | | | | | {free:+.4f} | | | {labels:+.4f} |")
    return "\n".join(lines)


def processor() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{len(names)} cores, {names[0]}" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--cache", type=Path, default=Path("out/embeddings"))
    parser.add_argument("--queries", type=int, default=None, help="only the first so many of each set")
    parser.add_argument("--output", type=Path, default=Path("docs/results/retrieval.md"))
    args = parser.parse_args()
    encoder = load_encoder("builtin", cache_dir=str(args.cache / "graphs"))
    figures = []
    for name in args.sets:
        figures.append(measure(args.data / name, SETS[name], encoder, args.cache, args.queries))
        print(table_of(figures), flush=True)
    asked = f"the first {args.queries} questions of each set" if args.queries else "all questions"
    text = (
        "# Retrieval without reranking\n\n"
        f"`python benchmarks/retrieval.py --data FOLDER --sets {' '.join(args.sets)}`, {asked}; {processor()}; "
        f"Python {platform.python_version()}; {datetime.now(UTC):%Y-%m-%d}. nDCG@10, documents by their best chunk. "
        "The labels column is cross-fitted over five folds; the weight is the mean dense share without labels.\n\n"
        f"{table_of(figures)}\n"
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")
    print(json.dumps({"written": str(args.output)}))


if __name__ == "__main__":
    main()
