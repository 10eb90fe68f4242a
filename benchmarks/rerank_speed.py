"""Cross-encoders on a CPU: pairs per second and nDCG@10 of Fathom's engine and of others, same weights, same pairs.

    python benchmarks/rerank_speed.py --data FOLDER [--queries 60] [--depth 25] [--threads 2]
        [--large builtin-large] [--small builtin-small] [--rivals PYTHON]

FOLDER is a labelled set in the BEIR layout. Pairs are its dev queries with BM25's best documents, each cut to its
first 160 words, so that every engine reads the whole pair. The reference is `sentence_transformers.CrossEncoder` as it
comes (fp32). `--rivals` is the interpreter of an environment with sentence-transformers' OpenVINO backend
(optimum-intel, nncf) and flashrank; without it they are left out. Fathom's rate includes tokenising, as theirs does;
`stored_ids` is what serving does, where chunks were tokenised at indexing. The ceiling is a bf16 product of two 4096²
matrices in torch. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.evaluation.datasets import Dataset, load_dataset, read_jsonl
from jobs.evaluation.metrics import ndcg
from services.models import locate
from services.reranking.checkpoint import complete_folder, describe_cross_encoder
from services.reranking.cost import gflop
from services.reranking.cross_encoder import CrossEncoder, load_cross_encoder

Float32 = npt.NDArray[np.float32]

WORDS = 160
MATRIX = 4096
TIMED = 2
RIVALS = Path(__file__).with_name("rerank_rivals.py")
OPTIONAL = ("openvino", "openvino-int8", "flashrank")


class Bench:
    """The pairs of one labelled set, and what engines make of them."""

    def __init__(self, data: Path, queries: int, depth: int) -> None:
        judged = load_dataset(_file(data, "queries.jsonl"), data / "qrels" / "dev.tsv")
        chosen = random.Random(0).sample(sorted(judged.queries), min(queries, len(judged.queries)))
        documents = {
            row["_id"]: _cut(f"{row.get('title') or ''}\n{row['text']}")
            for row in read_jsonl(_file(data, "corpus.jsonl"))
        }
        self._judged: Dataset = judged
        self._lists = _candidates(documents, {query: judged.queries[query] for query in chosen}, depth)
        self.pairs = [
            (judged.queries[query], documents[name]) for query, names in self._lists.items() for name in names
        ]

    def ndcg(self, logits: Float32) -> float:
        """Mean nDCG@10 of the candidates in the order of the logits."""
        values: list[float] = []
        start = 0
        for query, names in self._lists.items():
            part = logits[start : start + len(names)]
            start += len(names)
            ranked = [names[row] for row in np.argsort(-part, kind="stable")]
            values.append(ndcg(ranked, self._judged.judgements[query], 10))
        return float(np.mean(values))


def main() -> None:
    options = _parser().parse_args()
    bench = Bench(options.data, options.queries, options.depth)
    with tempfile.TemporaryDirectory(prefix="fathom-speed-") as home:
        whole = complete_folder(locate(options.large).path, Path(home) / "large")
        report = {
            "pairs": len(bench.pairs),
            "data": options.data.name,
            "ceiling_gflops": round(_ceiling(options.threads)),
            "large": _fathom(bench, options.large, options.threads, home),
            "small": _fathom(bench, options.small, options.threads, home),
            "rivals": _rivals(bench, whole, Path(home), options),
        }
    _compare(report)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    report |= {"machine": machine, "threads": options.threads, "date": datetime.now(UTC).date().isoformat()}
    print(json.dumps(report, indent=1))


def _fathom(bench: Bench, reference: str, threads: int, home: str) -> dict[str, Any]:
    model = load_cross_encoder(reference, cache_dir=home, threads=threads, device="cpu")
    started = time.perf_counter()
    load_cross_encoder(reference, cache_dir=home, threads=threads, device="cpu")
    loaded = time.perf_counter() - started
    ids = model.tokenizer.ids([text for pair in bench.pairs for text in pair])
    pairs = list(zip(ids[::2], ids[1::2], strict=True))
    logits = model.score(pairs)
    whole = _best(lambda: _from_text(model, bench.pairs))
    stored = _best(lambda: model.score(pairs))
    lengths = model.tokenizer.windows(pairs).lengths()
    config = describe_cross_encoder(reference).config
    work = {
        trimmed: sum(gflop(config, int(length), trimmed=trimmed) for length in lengths) for trimmed in (False, True)
    }
    return {
        "reference": model.facts.name,
        "dtype": model.facts.dtype,
        "tokens_mean": round(float(lengths.mean()), 1),
        "load_again_s": round(loaded, 2),
        "pairs_per_s": round(len(pairs) / whole, 1),
        "pairs_per_s_stored_ids": round(len(pairs) / stored, 1),
        "gflops": round(work[False] / stored),
        "gflops_executed": round(work[True] / stored),
        "ndcg@10": round(bench.ndcg(logits), 4),
        "cost_ms": dict(zip(model.facts.cost_tokens, (round(cost, 2) for cost in model.facts.cost_ms), strict=True)),
        "logits": logits,
    }


def _from_text(model: CrossEncoder, pairs: Sequence[tuple[str, str]]) -> Float32:
    ids = model.tokenizer.ids([text for pair in pairs for text in pair])
    return model.score(list(zip(ids[::2], ids[1::2], strict=True)))


def _rivals(bench: Bench, folder: Path, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    pairs = home / "pairs.json"
    pairs.write_text(json.dumps(bench.pairs), "utf-8")
    found: dict[str, Any] = {}
    wanted = [("default", sys.executable)] + [(name, options.rivals) for name in OPTIONAL if options.rivals]
    for name, python in wanted:
        logits = home / f"{name}.npy"
        command = [
            str(python),
            str(RIVALS),
            name,
            str(folder),
            str(pairs),
            str(logits),
            "--threads",
            str(options.threads),
        ]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            found[name] = {"failed": (child.stderr.strip().splitlines() or ["?"])[-1]}
            continue
        values = np.load(logits)
        report = json.loads(child.stdout.strip().splitlines()[-1])
        found[name] = report | {"ndcg@10": round(bench.ndcg(values), 4), "logits": values}
    return found


def _compare(report: dict[str, Any]) -> None:
    """Ratios beside the figures; logits leave the report."""
    large, small, rivals = report["large"], report["small"], report["rivals"]
    ran = {name: rival for name, rival in rivals.items() if "logits" in rival}
    exact = ran["default"]["logits"]
    best = max((rival["pairs_per_s"] for name, rival in ran.items() if name.startswith("openvino")), default=None)
    report["ratios"] = {
        "to_default": round(large["pairs_per_s"] / ran["default"]["pairs_per_s"], 2),
        "to_its_best_backend": round(large["pairs_per_s"] / best, 2) if best else None,
        "share_of_ceiling": round(large["gflops"] / report["ceiling_gflops"], 3),
        "share_of_ceiling_executed": round(large["gflops_executed"] / report["ceiling_gflops"], 3),
        "small_to_large": round(small["pairs_per_s_stored_ids"] / large["pairs_per_s_stored_ids"], 2),
        "ndcg_int8_minus_fp32": round(large["ndcg@10"] - ran["default"]["ndcg@10"], 4),
    }
    for one in (large, *ran.values()):
        one["correlation_to_fp32"] = round(float(np.corrcoef(one["logits"], exact)[0, 1]), 5)
    for one in (large, small, *ran.values()):
        del one["logits"]


def _ceiling(threads: int) -> float:
    """GFLOP/s of a bf16 product of two MATRIX² matrices, the best of TIMED."""
    import torch

    torch.set_num_threads(threads)
    left, right = (torch.randn(MATRIX, MATRIX).bfloat16() for _ in range(2))
    return 2 * MATRIX**3 / _best(lambda: left @ right) / 1e9


def _candidates(documents: dict[str, str], queries: dict[str, str], depth: int) -> dict[str, list[str]]:
    import bm25s

    names = list(documents)
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(documents.values()), show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(queries.values()), show_progress=False)
    found = index.retrieve(asked, k=depth, show_progress=False).documents
    return {query: [names[row] for row in rows] for query, rows in zip(queries, found, strict=True)}


def _best(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _cut(text: str) -> str:
    return " ".join(text.split()[:WORDS])


def _file(data: Path, name: str) -> Path:
    plain = data / name
    return plain if plain.is_file() else data / (name + ".gz")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--depth", type=int, default=25)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--large", default="builtin-large")
    parser.add_argument("--small", default="builtin-small")
    parser.add_argument("--rivals", help="interpreter of the environment with the other engines")
    return parser


if __name__ == "__main__":
    main()
