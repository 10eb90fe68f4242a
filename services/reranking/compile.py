"""The child process that turns a cross-encoder's folder into a graph: `-m services.reranking.compile FOLDER HOME
PRECISION`. Writes what `services/embedding/compile.py` writes; exit code 3: only torch can run this architecture.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from services.embedding.bert import has_trunk
from services.embedding.build import UNSUPPORTED_EXIT
from services.embedding.compile import save_graph
from services.embedding.quantise import int8_plan
from services.reranking.checkpoint import read_checkpoint, window_tokens
from services.reranking.graph import PairGraph, calibration_pairs, correlation
from services.reranking.pairs import PairTokenizer

MIN_CORRELATION = 0.99  # of int8 with float logits on the calibration pairs; below it the model keeps its float weights
JUDGED_EVERY = 3  # of the calibration pairs


def compile_folder(folder: Path, home: Path, precision: str) -> dict[str, Any]:
    """Build the graph in `precision` (int8 | float) and return its facts; int8 only where it stays faithful."""
    return save_graph(home, lambda: _graph(folder, precision))


def _graph(folder: Path, precision: str) -> tuple[Any, dict[str, Any]]:
    checkpoint = read_checkpoint(folder)
    pairs = PairGraph(checkpoint)
    exact = pairs.model()
    if precision == "float":
        return exact, {"precision": "float", "built": "weights"}
    tokenizer = PairTokenizer(checkpoint.tokenizer_json, window_tokens(folder, checkpoint.config))
    samples = calibration_pairs(tokenizer)
    small = pairs.model(int8_plan(pairs, samples))
    likeness = correlation(exact, small, samples[::JUDGED_EVERY])
    faithful = likeness >= MIN_CORRELATION  # also False when every logit is the same and nothing correlates
    facts = {"precision": "int8" if faithful else "float", "built": "weights", "agreement": likeness}
    return (small if faithful else exact), facts


def main(arguments: list[str]) -> int:
    """Exit code of the child."""
    folder, home, precision = arguments
    if not has_trunk(Path(folder)):
        return UNSUPPORTED_EXIT
    compile_folder(Path(folder), Path(home), precision)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
