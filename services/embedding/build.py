"""Builds an encoder's graph once per machine and finds it again. Safe when many processes start at once.

A graph's folder is named by everything that decides its bytes, written beside its place and renamed into it under
a file lock: a crash leaves nothing half-written under the final name. Needs torch only for the first build.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from blake3 import blake3

from services.embedding.recipe import Recipe
from services.models import ModelFolder

log = logging.getLogger(__name__)

GRAPH_FILE = "encoder.xml"
TOOLS = ("openvino", "torch", "transformers")


def graph_path(folder: ModelFolder, recipe: Recipe, precision: str, cache_dir: Path) -> Path:
    """The OpenVINO IR of the model in `precision` (bf16), built first if `cache_dir` has none."""
    home = cache_dir / "encoders" / _key(folder, recipe, precision)
    graph = home / GRAPH_FILE
    if graph.is_file():
        return graph
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home.with_suffix(".lock")):
        if not graph.is_file():
            _build(folder, recipe, home)
    return graph


def _key(folder: ModelFolder, recipe: Recipe, precision: str) -> str:
    tools = ",".join(f"{name}={version(name)}" for name in TOOLS)
    return blake3(f"{folder.revision}\0{recipe!r}\0{precision}\0{tools}".encode()).hexdigest()[:32]


def _build(folder: ModelFolder, recipe: Recipe, home: Path) -> None:
    import openvino

    from services.embedding.graph import build_graph

    start = time.perf_counter()
    draft = Path(tempfile.mkdtemp(prefix=home.name + ".", dir=home.parent))
    try:
        openvino.save_model(build_graph(folder.path, recipe), draft / GRAPH_FILE, compress_to_fp16=False)
        draft.rename(home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    log.info("built the encoder graph %s in %.1f s", home.name, time.perf_counter() - start)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
