"""Indexing speed: a plain loop of sentence-transformers, our embedding step and our whole job, over the same chunks.

    python benchmarks/indexing.py --data FOLDER/medquad [--documents 2000] [--split dev]

FOLDER/medquad is a set in the BEIR layout; `--documents` takes the first N instead of all. First the whole job runs
(`run_index_job`: Ray Data, LanceDB, indices, publishing) into a temporary data dir; the chunks that it stored are
then embedded again in slices, turn by turn, by `SentenceTransformer.encode` (batch 32, its default precision) and by
`jobs.indexing.embed.Embed`, so that whatever else the machine does meets both alike. Fidelity compares the two:
cosine, and nDCG@10 of the exact dense ranking over the split's questions. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import os
import platform
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from jobs.evaluation.datasets import Dataset, load_dataset
from jobs.evaluation.metrics import mean
from jobs.indexing.embed import Embed
from jobs.indexing.job import IndexJob, JobResult
from jobs.indexing.pipeline import run_index_job
from services.contracts import Float32
from services.control_plane import open_control_plane
from services.embedding.encoder import Encoder, load_encoder
from services.models import BUILTIN, locate
from services.settings import Settings
from tenants.config import TenantConfig
from tenants.corpus import release as releases
from tenants.corpus.schema import chunk_schema
from tenants.corpus.table import open_release
from tenants.ids import new_job_id, tenant_name
from tenants.scope import TenantScope

SLICE_CHUNKS = 1_024
PLAIN_BATCH = 32
DEPTH = 10
PACKAGES = ("openvino", "torch", "sentence-transformers", "transformers", "ray", "pylance")


@dataclass
class Side:
    """One way of embedding: seconds of wall clock and of this process's CPU, and its vectors (n, d) by slice."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    vectors: list[Float32] = field(default_factory=list)

    def run(self, work: Callable[[], Float32]) -> None:
        """Do one slice and add its time and vectors."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.vectors.append(work())
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu

    def report(self, chunks: int) -> dict[str, float]:
        """Rates over all slices."""
        return {
            "chunks_per_s": round(chunks / self.wall_s, 1),
            "chunks_per_cpu_s": round(chunks / self.cpu_s, 1),
            "seconds": round(self.wall_s, 1),
        }


def main() -> None:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="fathom-indexing-") as folder:
        settings = Settings(data_dir=folder)
        built = time.perf_counter()
        encoder = load_encoder(BUILTIN, cache_dir=f"{folder}/models", device="cpu")
        built = time.perf_counter() - built
        source = _source(options.data, Path(folder), options.documents)
        job, job_wall_s, chunks = _whole_job(source, settings)
        plain_model = SentenceTransformer(str(locate(BUILTIN).path), device="cpu")
        plain, ours = _side_by_side(chunks, plain_model, f"{folder}/models")
        report = {
            "whole_job": _job_report(job, job_wall_s, plain, ours, len(chunks)),
            "plain_loop": plain.report(len(chunks)),
            "embedding_step": ours.report(len(chunks)),
            "ratios": _ratios(plain, ours, job_wall_s),
            "fidelity": _fidelity(options, chunks, plain, ours, encoder, plain_model),
            "graph_build_s": round(built, 1),
            **_machine(),
        }
    print(json.dumps(report, indent=1))


def _whole_job(source: Path, settings: Settings) -> tuple[JobResult, float, pa.Table]:
    """The job's result, its wall time with Ray's start, and the chunks it published."""
    store = open_control_plane(settings)
    try:
        tenant = store.create_tenant(tenant_name("bench"), TenantConfig())
        scope = TenantScope(tenant.name, tenant.uid, tenant.config, settings.root)
        started = time.perf_counter()
        result = run_index_job(IndexJob(new_job_id(), (str(source),)), scope, store, settings)
        wall_s = time.perf_counter() - started
        release = releases.current(scope)
        if release is None:
            raise SystemExit("the job published nothing; look at its errors")
        table = open_release(scope, release).to_table(columns=chunk_schema().names)
        return result, wall_s, table.cast(chunk_schema())
    finally:
        ray.shutdown()
        store.close()


def _side_by_side(chunks: pa.Table, plain_model: SentenceTransformer, cache_dir: str) -> tuple[Side, Side]:
    embed = Embed(BUILTIN, cache_dir=cache_dir, device="cpu")
    _plain(plain_model, chunks.slice(0, PLAIN_BATCH)), _embedded(embed, chunks.slice(0, PLAIN_BATCH))  # warm up
    plain, ours = Side(), Side()
    for part in _slices(chunks):
        plain.run(lambda part=part: _plain(plain_model, part))  # type: ignore[misc]
        ours.run(lambda part=part: _embedded(embed, part))  # type: ignore[misc]
    return plain, ours


def _slices(chunks: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(chunks), SLICE_CHUNKS):
        yield chunks.slice(start, SLICE_CHUNKS)


def _plain(model: SentenceTransformer, part: pa.Table) -> Float32:
    found: Float32 = model.encode(part["lexical"].to_pylist(), batch_size=PLAIN_BATCH)
    return found


def _embedded(embed: Embed, part: pa.Table) -> Float32:
    column = embed(part)["vector"].combine_chunks()
    return np.asarray(column.flatten(), np.float32).reshape(len(part), -1)


def _job_report(job: JobResult, wall_s: float, plain: Side, ours: Side, chunks: int) -> dict[str, Any]:
    """`beyond_embedding` is the share of the wall time that the embedding step, run alone, does not account for."""
    return {
        "documents": job.counts.new,
        "chunks": chunks,
        "tokens": job.tokens,
        "seconds": round(wall_s, 1),
        "chunks_per_s": round(chunks / wall_s, 1),
        "stage_seconds": {stage: round(seconds, 1) for stage, seconds in job.stage_seconds.items()},
        "beyond_embedding": round(1 - ours.wall_s / wall_s, 3),
    }


def _ratios(plain: Side, ours: Side, job_wall_s: float) -> dict[str, float]:
    return {
        "embedding_step": round(plain.wall_s / ours.wall_s, 2),
        "embedding_step_cpu": round(plain.cpu_s / ours.cpu_s, 2),
        "whole_job": round(plain.wall_s / job_wall_s, 2),
    }


def _fidelity(
    options: argparse.Namespace,
    chunks: pa.Table,
    plain: Side,
    ours: Side,
    encoder: Encoder,
    plain_model: SentenceTransformer,
) -> dict[str, float]:
    dataset = load_dataset(options.data / "queries.jsonl.gz", options.data / "qrels" / f"{options.split}.tsv")
    documents = chunks["document_id"].to_pylist()
    known = set(documents)
    judged = {query: grades for query, grades in dataset.judgements.items() if known.issuperset(grades)}
    exact, fast = np.concatenate(plain.vectors), np.concatenate(ours.vectors)
    inside = np.array([len(ids) <= encoder.max_tokens for ids in _lengths(encoder, chunks)])
    cosines = np.sum(exact * fast, axis=1)
    texts = [dataset.queries[query] for query in judged]
    subset = Dataset({query: dataset.queries[query] for query in judged}, judged, "")
    before = _ndcg(subset, documents, exact, plain_model.encode(texts, batch_size=PLAIN_BATCH)) if judged else 0.0
    after = _ndcg(subset, documents, fast, encoder.encode(texts)) if judged else 0.0
    return {
        "mean_cosine": round(float(cosines[inside].mean()), 5),
        "min_cosine": round(float(cosines[inside].min()), 5),
        "chunks_longer_than_window": int((~inside).sum()),
        "queries": len(judged),
        "ndcg@10_plain": round(before, 4),
        "ndcg@10_ours": round(after, 4),
        "ndcg@10_difference": round(after - before, 4),
    }


def _lengths(encoder: Encoder, chunks: pa.Table) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(encoder.tokenizer_json)
    tokenizer.no_truncation()
    return [found.ids for found in tokenizer.encode_batch_fast(chunks["lexical"].to_pylist())]


def _ndcg(dataset: Dataset, documents: list[str], vectors: Float32, questions: Float32) -> float:
    run: dict[str, dict[str, float]] = {}
    for query, question in zip(dataset.queries, questions, strict=True):
        scores = vectors @ question
        best: defaultdict[str, float] = defaultdict(lambda: -1.0)
        for row in np.argpartition(-scores, min(len(scores) - 1, DEPTH * 20))[: DEPTH * 20]:
            best[documents[row]] = max(best[documents[row]], float(scores[row]))
        run[query] = dict(best)
    return mean(run, dataset.judgements, "ndcg", DEPTH)


def _source(data: Path, folder: Path, documents: int | None) -> Path:
    corpus = data / "corpus.jsonl.gz"
    if documents is None:
        return corpus
    target = folder / "corpus.jsonl"
    with gzip.open(corpus, "rt", encoding="utf-8") as lines:
        target.write_text("".join(islice(lines, documents)), "utf-8")
    return target


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "machine": f"{model}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a set in the BEIR layout, medquad for instance")
    parser.add_argument("--documents", type=int, help="only the first N documents")
    parser.add_argument("--split", default="dev", help="whose questions measure nDCG@10")
    return parser


if __name__ == "__main__":
    main()
