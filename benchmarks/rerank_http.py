"""What certified reranking costs a caller: HTTP latency and nDCG@10 of never, auto and always on a real corpus.

    python -m benchmarks.rerank_http --data FOLDER/medquad [--calibrate 400] [--questions 120] [--documents 0]

A platform of its own (no logits are remembered) indexes the corpus, `fathom calibrate` certifies the tenant on
`--calibrate` labelled questions, other questions are asked over HTTP: never and auto at concurrency 1, 8, 32, always at
1 and 4. The client shares the machine's cores. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import platform as machine
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from cluster import local
from cluster.bench.platform import UNLIMITED, Platform, Tenant
from jobs.evaluation.datasets import Dataset, load_dataset
from jobs.evaluation.metrics import mean
from services.control_plane import operator_key
from services.settings import Reranking, load_settings

RUNS = (("never", 1), ("never", 8), ("never", 32), ("auto", 1), ("auto", 8), ("auto", 32), ("always", 1), ("always", 4))
PATIENCE_S = 600.0


def main() -> None:
    """Start, index, calibrate, ask, print, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--calibrate", type=int, default=400)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--documents", type=int, default=0, help="only the first N, and questions about them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fathom-rerank-http-") as folder:
        print(json.dumps(_measured(Path(folder), options), indent=1))


def _measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    data = load_dataset(options.data / "queries.jsonl.gz", options.data / "qrels" / f"{options.split}.tsv")
    corpus, data = _part(options.data / "corpus.jsonl.gz", data, options.documents, folder)
    names = list(data.queries)
    random.Random(0).shuffle(names)
    certified, asked = names[: options.calibrate], names[options.calibrate :][: options.questions]
    data_dir = str(folder / "data")
    settings = load_settings(data_dir=data_dir, reranking=Reranking(cache_bytes=0), request_timeout_s=PATIENCE_S)
    info = local.up(settings)
    try:
        platform = Platform(info.url, operator_key(settings), data_dir)
        tenant = platform.create("bench", UNLIMITED | {"shadow_rate": 0})
        _note(f"indexed {platform.index('bench', corpus)['chunks']} chunks")
        certificate = _calibrated(folder, data, certified, data_dir)
        _note(json.dumps({name: certificate[name] for name in ("certificate", "lambda", "alpha", "ece", "pairs")}))
        runs = [_run(tenant, data, asked, rerank, concurrency) for rerank, concurrency in RUNS]
    finally:
        local.down(data_dir)
    return {
        "certificate": {name: value for name, value in certificate.items() if name not in ("errors", "run_id")},
        "runs": runs,
        "auto_of_always_p95": round(_of(runs, "auto", 1)["p95_ms"] / _of(runs, "always", 1)["p95_ms"], 3),
        "auto_less_always_ndcg": round(_of(runs, "auto", 1)["ndcg@10"] - _of(runs, "always", 1)["ndcg@10"], 4),
        "machine": f"{machine.processor() or machine.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
    }


def _part(corpus: Path, data: Dataset, documents: int, folder: Path) -> tuple[Path, Dataset]:
    """The whole set, or its first documents with the questions that are about them."""
    if not documents:
        return corpus, data
    path = folder / "corpus.jsonl"
    with gzip.open(corpus, "rt", encoding="utf-8") as lines, path.open("w", encoding="utf-8") as kept:
        kept.writelines(islice(lines, documents))
    held = {json.loads(line)["_id"] for line in path.read_text(encoding="utf-8").splitlines()}
    judged = {name: rows for name, rows in data.judgements.items() if held & rows.keys()}
    return path, Dataset({name: data.queries[name] for name in judged}, judged, data.digest)


def _calibrated(folder: Path, data: Dataset, names: Sequence[str], data_dir: str) -> dict[str, Any]:
    """`fathom calibrate` on those questions."""
    queries, qrels = folder / "queries.jsonl", folder / "qrels.tsv"
    queries.write_text("".join(json.dumps({"_id": name, "text": data.queries[name]}) + "\n" for name in names))
    rows = [f"{name}\t{document}\t{grade}" for name in names for document, grade in data.judgements[name].items()]
    qrels.write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    command = [sys.executable, "-m", "cluster.cli", "calibrate", "bench", "--queries", str(queries)]
    arguments = ["--qrels", str(qrels), "--data-dir", data_dir, "--json"]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def _run(tenant: Tenant, data: Dataset, names: Sequence[str], rerank: str, concurrency: int) -> dict[str, Any]:
    found = asyncio.run(_ask(tenant, {name: data.queries[name] for name in names}, rerank, concurrency))
    good = {name: one for name, one in found.items() if one["status"] == httpx.codes.OK}
    lists = {
        name: {row["document_id"]: -float(row["rank"]) for row in one["body"]["results"]} for name, one in good.items()
    }
    p50, p95 = np.percentile([one["ms"] for one in good.values()], [50, 95])
    decisions = [one["body"]["rerank"]["decision"] for one in good.values()]
    run = {
        "rerank": rerank,
        "concurrency": concurrency,
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "errors": len(found) - len(good),
        "ndcg@10": round(mean(lists, {name: data.judgements[name] for name in good}, "ndcg", 10), 4),
        "pairs": round(float(np.mean([one["body"]["rerank"]["pairs"] for one in good.values()])), 1),
        "decisions": {word: decisions.count(word) for word in sorted(set(decisions))},
        "certified": sum(one["body"]["rerank"]["certificate"] is not None for one in good.values()),
    }
    _note(json.dumps(run))
    return run


async def _ask(tenant: Tenant, questions: Mapping[str, str], rerank: str, concurrency: int) -> dict[str, Any]:
    turns = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(timeout=PATIENCE_S, headers={"Authorization": f"Bearer {tenant.key}"}) as client:

        async def one(text: str) -> dict[str, Any]:
            body = {"query": text, "top_k": 10, "rerank": rerank, "group_by": "document"}
            async with turns:
                began = time.perf_counter()
                answered = await client.post(f"{tenant.base}/search", json=body)
                spent_ms = (time.perf_counter() - began) * 1000
            return {"status": answered.status_code, "ms": spent_ms, "body": answered.json()}

        for text in list(questions.values())[:3]:
            await one(text)
        found = await asyncio.gather(*(one(text) for text in questions.values()))
    return dict(zip(questions, found, strict=True))


def _of(runs: Sequence[Mapping[str, Any]], rerank: str, concurrency: int) -> Mapping[str, Any]:
    return next(run for run in runs if (run["rerank"], run["concurrency"]) == (rerank, concurrency))


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
