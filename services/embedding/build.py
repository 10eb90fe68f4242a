"""Builds a model's graph once per machine and finds it again. Safe when many processes start at once.

A graph's folder is named by everything that decides its bytes, written beside its place and renamed into it under
a file lock: a crash leaves nothing half-written under the final name.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from blake3 import blake3

from services.embedding.recipe import Recipe
from services.models import ModelFolder
from tenants.errors import Unavailable

log = logging.getLogger(__name__)

GRAPH_FILE = "encoder.xml"
FACTS_FILE = "facts.json"
TOOLS = ("openvino", "torch", "transformers")
UNSUPPORTED_EXIT = 3
BUILD_TIMEOUT_S = 1_800
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


class UnsupportedArchitecture(Unavailable):
    """OpenVINO cannot express the model; torch can still run it."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """The child process that builds: `-m module FOLDER HOME PRECISION`; `files` decide a graph's bytes."""

    noun: str
    module: str
    shelf: str  # the folder of its graphs in the cache directory
    files: tuple[Path, ...]


ENCODERS = Compiler(
    "encoder",
    "services.embedding.compile",
    "encoders",
    tuple(HERE / name for name in ("bert.py", "graph.py", "quantise.py", "compile.py", "calibration.txt")),
)


def graph_path(
    folder: ModelFolder, recipe: Recipe | None, precision: str, cache_dir: Path, compiler: Compiler = ENCODERS
) -> Path:
    """The OpenVINO graph of the model in `precision` (int8 | float), built first if `cache_dir` has none.

    Raises `UnsupportedArchitecture`, or `Unavailable` with the last line of the failed build.
    """
    home = cache_dir / compiler.shelf / _key(folder, recipe, precision, compiler)
    graph = home / GRAPH_FILE
    if graph.is_file():
        return graph
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home.with_suffix(".lock")):
        if not graph.is_file():
            _build(folder, precision, home, compiler)
    return graph


def precision_of(graph: Path) -> str:
    """int8 or float: what the build of `graph` kept."""
    return str(json.loads(graph.with_name(FACTS_FILE).read_text("utf-8"))["precision"])


def _key(folder: ModelFolder, recipe: Recipe | None, precision: str, compiler: Compiler) -> str:
    own = blake3(b"".join(file.read_bytes() for file in compiler.files)).hexdigest()
    tools = own + ",".join(f"{name}={version(name)}" for name in TOOLS)
    return blake3(f"{folder.revision}\0{recipe!r}\0{precision}\0{tools}".encode()).hexdigest()[:32]


def _build(folder: ModelFolder, precision: str, home: Path, compiler: Compiler) -> None:
    name = folder.path.name
    log.info("building the %s %s of %s, once on this machine; some seconds", precision, compiler.noun, name)
    draft = Path(tempfile.mkdtemp(prefix=home.name + ".", dir=home.parent))
    try:
        _run_child(folder.path, draft, precision, compiler)
        draft.rename(home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    log.info("built the %s: %s", compiler.noun, (home / FACTS_FILE).read_text("utf-8"))


def _run_child(folder: Path, draft: Path, precision: str, compiler: Compiler) -> None:
    command = [sys.executable, "-m", compiler.module, str(folder.absolute()), str(draft), precision]
    child = subprocess.run(  # noqa: S603 - our own interpreter and module
        command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    if child.returncode == UNSUPPORTED_EXIT:
        raise UnsupportedArchitecture(f"{folder.name} has operations that OpenVINO does not know; torch runs it")
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        raise Unavailable(
            f"the {compiler.noun} of {folder.name} could not be built ({last}); check disk space and memory"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
