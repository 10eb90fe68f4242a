"""Fit the three constants of the label-free fusion weight on public training questions.

    python -m benchmarks.fusion --data FOLDER [--cache FOLDER] [--queries 600]

Training sets: squad_v1_train, vespa_docs and pubmedqa (train splits), and the running interpreter's standard library,
where a function's docstring asks for the function without it: the one set where BM25 is far behind. The weight is
σ(bias + code · code share of the corpus + slope · best cosine); the objective is the mean nDCG@10 over sets, each
set weighing the same, minus PENALTY · ½‖standardised coefficients‖². Prints the constants for
`services/retrieval/fusion.py`. Evaluation sets (dev and test splits) are never read.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import random
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.retrieval import embedded, parsed_table, published
from jobs.evaluation.datasets import Dataset, load_dataset
from jobs.evaluation.fusion_learning import judge
from jobs.indexing.chunk import chunk_batch
from jobs.indexing.schemas import PARSED_SCHEMA
from services.embedding.encoder import Encoder, load_encoder
from services.embedding.queries import QueryEncoder
from services.retrieval.fusion import FusionProfile
from services.retrieval.learning import WEIGHTS, code_share, sigmoid
from services.retrieval.search import LocalRetriever
from tenants.config import TenantConfig
from tenants.ids import TenantUid

Float64 = npt.NDArray[np.float64]

SETS = ("squad_v1_train", "vespa_docs", "pubmedqa")
FUNCTIONS, ASKED_FUNCTIONS = 1_300, 400
PENALTY = 0.003
STEPS, RATE = 1_500, 0.03


@dataclass(frozen=True)
class Measured:
    """features (n, 2) float64: code share, best cosine; curves (n, len(WEIGHTS)) float64 nDCG@10."""

    name: str
    features: Float64
    curves: Float64


def functions() -> Iterator[tuple[str, str]]:
    """(first paragraph of the docstring, source without it) of the standard library's functions."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.relative_to(root).parts):
            continue
        try:
            source = path.read_text("utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        yield from _documented(source.splitlines(), tree)


def _documented(lines: list[str], tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) and len(node.body) > 1 else None
        if not isinstance(node, ast.FunctionDef) or not text:
            continue
        asked = text.strip().split("\n\n")[0].replace("\n", " ")
        first = node.body[0]
        code = "\n".join(lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno])
        if 4 <= len(asked.split()) <= 20 and 60 < len(code) < 900:
            yield asked, code


def standard_library() -> tuple[pa.Table, Dataset]:
    found = list(functions())
    random.Random(0).shuffle(found)
    found = found[:FUNCTIONS]
    empty = {"source": "", "collection": "", "title": "", "spans": [], "metadata": "{}", "document_digest": ""}
    rows = [
        {**empty, "document_id": f"f{n}", "text": code, "format": "text", "language": "en"}
        for n, (_, code) in enumerate(found)
    ]
    queries = {f"q{n}": asked for n, (asked, _) in enumerate(found[:ASKED_FUNCTIONS])}
    grades = {f"q{n}": {f"f{n}": 1} for n in range(len(queries))}
    return pa.Table.from_pylist(rows, schema=PARSED_SCHEMA), Dataset(queries, grades, "")


def measure(name: str, parsed: pa.Table, data: Dataset, encoder: Encoder, cache: Path, limit: int) -> Measured:
    queries = sorted(data.queries)
    random.Random(0).shuffle(queries)
    chunks = chunk_batch(parsed, TenantConfig().chunking, encoder.tokenizer_json, TenantUid("t_bench"), "benchmark")
    vectors = embedded(chunks["lexical"].to_pylist(), encoder, cache / name)
    with tempfile.TemporaryDirectory(prefix="fathom-bench-") as root:
        scope = published(root, chunks, vectors)

        async def ask() -> list[tuple[float, Float64]]:
            retriever = LocalRetriever(QueryEncoder(lambda _: encoder))
            found = []
            for query in queries[:limit]:
                text, grades = data.queries[query], data.judgements[query]
                one = await judge(retriever, scope, text, grades, FusionProfile())
                found.append((one.cosine, one.curve))
            await retriever.close()
            return found

        judged = asyncio.run(ask())
    share = code_share(chunks["text"].to_pylist())
    features = np.array([[share, cosine] for cosine, _ in judged])
    return Measured(name, features, np.array([curve for _, curve in judged]))


def fit(sets: list[Measured]) -> Float64:
    """(3,) float64 bias, code, slope: gradient ascent (Adam) on the penalised mean over sets."""
    together = np.concatenate([one.features for one in sets])
    center, spread = together.mean(0), together.std(0) + 1e-9
    value, first, second = np.zeros(3), np.zeros(3), np.zeros(3)
    for step in range(1, STEPS):
        gradient = -PENALTY * value * np.array([0.1, 1.0, 1.0])
        for one in sets:
            inputs = np.c_[np.ones(len(one.features)), (one.features - center) / spread]
            weight = sigmoid(inputs @ value)
            gradient += inputs.T @ (slopes(one.curves, weight) * weight * (1 - weight)) / len(inputs) / len(sets)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        scaled = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        value = value + RATE * (1 - step / STEPS) * scaled
    raw = value[1:] / spread
    return np.array([value[0] - raw @ center, *raw])


def slopes(curves: Float64, weight: Float64) -> Float64:
    """(n,) float64 derivative of each curve at its weight, after a moving mean over five points."""
    padded = np.pad(curves, ((0, 0), (2, 2)), mode="edge")
    smooth = np.mean([padded[:, shift : shift + curves.shape[1]] for shift in range(5)], axis=0)
    left = np.clip((weight * (len(WEIGHTS) - 1)).astype(np.int64), 0, len(WEIGHTS) - 2)
    rows = np.arange(len(weight))
    result: Float64 = (smooth[rows, left + 1] - smooth[rows, left]) * (len(WEIGHTS) - 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("out/embeddings"))
    parser.add_argument("--queries", type=int, default=600, help="of each set at most")
    args = parser.parse_args()
    encoder = load_encoder("builtin", cache_dir=str(args.cache / "graphs"))
    sources = [("standard_library", *standard_library())]
    for name in SETS:
        folder = args.data / name
        data = load_dataset(folder / "queries.jsonl.gz", folder / "qrels" / "train.tsv")
        sources.append((name, parsed_table(folder / "corpus.jsonl.gz"), data))
    sets = [measure(name, parsed, data, encoder, args.cache, args.queries) for name, parsed, data in sources]
    for one in sets:
        legs = (one.curves[:, 0].mean(), one.curves[:, -1].mean())
        print(f"{one.name}: {len(one.curves)} questions, code share {one.features[0, 0]:.2f}, BM25-only {legs[0]:.3f}, "
              f"dense-only {legs[1]:.3f}")  # fmt: skip
    bias, code, slope = fit(sets)
    print(f"BIAS = {bias:.2f}\nCODE = {code:.2f}\nSLOPE = {slope:.2f}")


if __name__ == "__main__":
    main()
