"""The child process that turns a model folder into a graph: `-m services.embedding.compile FOLDER HOME PRECISION`.

A process of its own, so that the memory of calibration, or of torch where it is needed, ends with it. Writes
`encoder.xml`, `encoder.bin` and `facts.json` into HOME. Exit code 3: OpenVINO cannot express this architecture.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openvino.frontend import OpConversionFailure

from services.embedding.bert import BertGraph, supports
from services.embedding.build import FACTS_FILE, GRAPH_FILE, UNSUPPORTED_EXIT
from services.embedding.native import openvino
from services.embedding.quantise import agreement, calibration_samples, int8_plan
from services.embedding.recipe import Recipe, read_recipe

MIN_AGREEMENT = 0.995  # below it the model keeps its float weights


def compile_folder(folder: Path, home: Path, precision: str) -> dict[str, Any]:
    """Build the graph in `precision` (int8 | float) and return its facts; int8 only where it stays faithful."""
    return save_graph(home, lambda: _graph(folder, read_recipe(folder), precision))


def save_graph(home: Path, build: Callable[[], tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    """Build a graph with its facts, write both into `home` and return the facts with the seconds that it took."""
    start = time.perf_counter()
    graph, facts = build()
    openvino.save_model(graph, home / GRAPH_FILE, compress_to_fp16=False)
    facts["seconds"] = round(time.perf_counter() - start, 1)
    (home / FACTS_FILE).write_text(json.dumps(facts), "utf-8")
    return facts


def _graph(folder: Path, recipe: Recipe, precision: str) -> tuple[Any, dict[str, Any]]:
    if not supports(folder, recipe):
        from services.embedding.graph import build_graph  # torch, only for the architectures that need it

        return build_graph(folder, recipe), {"precision": "float", "built": "torch"}
    bert = BertGraph(folder, recipe)
    exact = bert.model()
    if precision == "float":
        return exact, {"precision": "float", "built": "weights"}
    samples = calibration_samples((folder / "tokenizer.json").read_text("utf-8"), recipe.max_tokens)
    small = bert.model(int8_plan(bert, samples))
    cosine = agreement(exact, small, samples[::4])
    facts = {"precision": "int8" if cosine >= MIN_AGREEMENT else "float", "built": "weights", "agreement": cosine}
    return (small if cosine >= MIN_AGREEMENT else exact), facts


def main(arguments: list[str]) -> int:
    """Exit code of the child."""
    folder, home, precision = arguments
    try:
        compile_folder(Path(folder), Path(home), precision)
    except OpConversionFailure:
        return UNSUPPORTED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
