"""The encoder alone: latency of one question, rates of batches by length, time to build its graph.

    python benchmarks/encoder.py [--threads 2] [--reference builtin] [--repeats 300]

Texts are made of random common words of the model's own vocabulary, each one token. Latencies are wall clock, and
CPU time beside them, which another load on the machine does not change. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from services.embedding.encoder import Encoder, load_encoder

QUESTION = "what are the first symptoms of type 2 diabetes?"
WORDS = ("house", "river", "music", "number", "water", "people", "light", "paper", "garden", "letter", "winter")
LENGTHS_TOKENS = (32, 64, 128, 256)
BATCH_TOKENS = 16_384


def main() -> None:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="fathom-encoder-") as cache_dir:
        first_s = _seconds(lambda: _load(options, cache_dir))
        again_s = _seconds(lambda: _load(options, cache_dir))
        encoder = _load(options, cache_dir)
    report = {
        "question_ms": _latency(encoder, options.repeats),
        "batches": {length: _rate(encoder, length) for length in LENGTHS_TOKENS},
        "load_s": {"first_with_build": round(first_s, 2), "again": round(again_s, 2)},
        "threads": options.threads,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 1),
        "openvino": importlib.metadata.version("openvino"),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(json.dumps(report, indent=1))


def _load(options: argparse.Namespace, cache_dir: str) -> Encoder:
    return load_encoder(options.reference, cache_dir=cache_dir, threads=options.threads, device="cpu")


def _latency(encoder: Encoder, repeats: int) -> dict[str, float]:
    encoder.encode_query(QUESTION)
    cpu = time.process_time()
    walls = [_seconds(lambda: encoder.encode_query(QUESTION)) for _ in range(repeats)]
    cpu = time.process_time() - cpu
    p50, p95, p99 = (round(float(value), 2) for value in np.percentile(np.array(walls) * 1e3, (50, 95, 99)))
    return {"p50": p50, "p95": p95, "p99": p99, "cpu": round(cpu / repeats * 1e3, 2)}


def _rate(encoder: Encoder, length: int) -> dict[str, float]:
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=length - 2)) for _ in range(BATCH_TOKENS // length)]
    encoder.encode(texts)
    cpu = time.process_time()
    wall = _seconds(lambda: encoder.encode(texts))
    cpu = time.process_time() - cpu
    return {"texts_per_s": round(len(texts) / wall, 1), "texts_per_cpu_s": round(len(texts) / cpu, 1)}


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--reference", default="builtin")
    parser.add_argument("--repeats", type=int, default=300)
    return parser


if __name__ == "__main__":
    main()
