"""Text → unit vectors: the one door to the embedders, for questions and for documents alike.

`load_encoder` compiles, `describe_encoder` only reads. Vectors are float32 unit rows, so that a dot product is the
cosine similarity (higher = more alike). Knows nothing of tenants, batches across requests or Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from services.embedding.build import UnsupportedArchitecture, graph_path
from services.embedding.recipe import Recipe, read_recipe
from services.embedding.tokens import Batch, Windows, WindowTokenizer, batches
from services.models import ModelFolder, locate
from tenants.errors import InvalidInput, Unavailable

log = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]

LENGTH_MULTIPLE = 16
# Part of the fingerprint: change it when the vectors of the default CPU engine change. A GPU or an older processor
# computes the same model in bf16 or fp32; the vectors agree within the fidelity that compile.py demands.
PRECISION_RECIPE = "int8 1"
INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
CPU_INFO = Path("/proc/cpuinfo")
GPU_NODES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd")
FINGERPRINT_CHARS = 32


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What is known without compiling anything.

    `fingerprint` names everything that decides the vectors: weights, tokenizer, pooling and the precision recipe,
    not the machine. `max_tokens` is one window's length, special tokens included; longer texts take several.
    """

    reference: str
    folder: ModelFolder
    recipe: Recipe
    dimension: int
    max_tokens: int
    fingerprint: str
    tokenizer_json: str


class Engine(Protocol):
    """Computes batches of at most `budget_tokens`, padding included; thread-safe."""

    budget_tokens: int

    def run(self, batches: Iterable[Batch], vectors: Float32) -> None:
        """Write each batch's unit rows into `vectors` (windows, d)."""
        ...


class Encoder:
    """A loaded embedder. `encode` may be called from many threads at once."""

    def __init__(self, info: EncoderInfo, engine: Engine) -> None:
        self.info = info
        self._engine = engine
        self._tokenizer = WindowTokenizer(info.tokenizer_json, info.max_tokens)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.info.dimension

    @property
    def max_tokens(self) -> int:
        """One window's length in tokens, special tokens included."""
        return self.info.max_tokens

    @property
    def fingerprint(self) -> str:
        """Names everything that decides the vectors."""
        return self.info.fingerprint

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer as the `tokenizers` library reads it."""
        return self.info.tokenizer_json

    def encode(self, texts: Sequence[str]) -> Float32:
        """(n, d) float32 unit rows, row i for text i; a text longer than the window is the mean of its windows."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        windows = self._tokenizer.windows(texts)
        vectors = np.empty((len(windows.ids), self.dimension), np.float32)
        order = batches(windows, budget_tokens=self._engine.budget_tokens, multiple=LENGTH_MULTIPLE, pad_id=0)
        self._engine.run(order, vectors)
        return vectors if len(windows.ids) == len(texts) else _joined(vectors, windows, len(texts))

    def encode_documents(self, texts: Sequence[str]) -> Float32:
        """`encode`, with the prefix that the model wants before documents."""
        prefix = self.info.recipe.document_prefix
        return self.encode([prefix + text for text in texts] if prefix else texts)

    def encode_query(self, text: str) -> Float32:
        """(d,) float32 unit vector of a question, with the prefix that the model wants before questions."""
        row: Float32 = self.encode([self.info.recipe.query_prefix + text])[0]
        return row


def _joined(vectors: Float32, windows: Windows, count: int) -> Float32:
    """Token-weighted mean of each text's windows, then unit length: Σ nᵢvᵢ / ‖Σ nᵢvᵢ‖."""
    weighted = vectors * windows.lengths()[:, None].astype(np.float32)
    sums = np.zeros((count, vectors.shape[1]), np.float32)
    np.add.at(sums, windows.owner, weighted)
    norms = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    joined: Float32 = (sums / norms).astype(np.float32)
    return joined


@lru_cache(maxsize=32)
def describe_encoder(reference: str, *, registry: str | None = None) -> EncoderInfo:
    """Find the model and read its recipe and tokenizer; compiles nothing. Raises as `services.models.locate`.

    Answers from memory after the first call: give a `services.models.pinned` reference where an alias may move.
    `registry` is the MLflow address that `models:/…` is read from.
    """
    folder = locate(reference, registry=registry)
    recipe = read_recipe(folder.path)
    return EncoderInfo(
        reference=reference,
        folder=folder,
        recipe=recipe,
        dimension=recipe.dimension,
        max_tokens=recipe.max_tokens,
        fingerprint=_fingerprint(folder, recipe),
        tokenizer_json=(folder.path / "tokenizer.json").read_text("utf-8"),
    )


def load_encoder(
    reference: str,
    *,
    cache_dir: str,
    threads: int | None = None,
    device: str = "auto",
    registry: str | None = None,
) -> Encoder:
    """Load an embedder; the first load on a machine builds its graph into `cache_dir`, later ones read it.

    `threads` of the CPU engine (default: all cores); `device` is auto | cpu | cuda; `registry` as above.
    """
    info = describe_encoder(reference, registry=registry)
    return Encoder(info, _engine(info, Path(cache_dir), threads, device))


def _engine(info: EncoderInfo, cache_dir: Path, threads: int | None, device: str) -> Engine:
    if device not in ("auto", "cpu", "cuda"):
        raise InvalidInput.field("/device", f"{device} is no device; choose auto, cpu or cuda")
    if device == "cuda" or (device == "auto" and gpu_here()):
        return _torch_engine(info, "cuda", threads)
    try:
        graph = graph_path(info.folder, info.recipe, cpu_precision(), cache_dir)
    except UnsupportedArchitecture as reason:
        log.warning("%s", reason)
        return _torch_engine(info, "cpu", threads)
    from services.embedding.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(graph, threads)


def _torch_engine(info: EncoderInfo, device: str, threads: int | None) -> Engine:
    from services.embedding.torch_engine import TorchEngine, gpu_available

    if device == "cuda" and not gpu_available():
        raise Unavailable("device is cuda, and torch sees no GPU here; set device to auto or cpu")
    return TorchEngine(info.folder.path, info.recipe, device, threads)


def gpu_here() -> bool:
    """Whether torch can compute on a GPU here; asks torch only on a machine that has one."""
    if not any(Path(node).exists() for node in GPU_NODES):
        return False  # spares a machine without a GPU the seconds that importing torch takes
    from services.embedding.torch_engine import gpu_available

    return gpu_available()


def cpu_precision(cpu_info: Path = CPU_INFO) -> str:
    """int8 where the processor multiplies int8 natively, float elsewhere: without it int8 is slower and saturates."""
    if not cpu_info.is_file():
        return "float"
    lines = (line for line in cpu_info.read_text("utf-8").splitlines() if line.startswith(("flags", "Features")))
    return "int8" if INT8_FLAGS.intersection(next(lines, "").split()) else "float"


def _fingerprint(folder: ModelFolder, recipe: Recipe) -> str:
    return blake3(f"{folder.revision}\0{recipe!r}\0{PRECISION_RECIPE}".encode()).hexdigest()[:FINGERPRINT_CHARS]
