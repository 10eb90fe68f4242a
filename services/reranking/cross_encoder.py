"""Query-passage pairs → raw relevance logits: the one door to the cross-encoders. Higher = more relevant.

`load_cross_encoder` compiles, `checkpoint.describe_cross_encoder` only reads. Knows nothing of tenants, batches across
requests, caches or Ray. On one machine a pair's logit has the same bits whatever it is batched with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.contracts import CrossEncoderFacts
from services.embedding import build
from services.embedding.build import UnsupportedArchitecture, graph_path
from services.embedding.encoder import cpu_precision, gpu_here
from services.reranking.checkpoint import Description, describe_cross_encoder
from services.reranking.cost import gflop, measured_ms
from services.reranking.pairs import Pair, PairBatch, PairTokenizer, pair_batches
from tenants.errors import InvalidInput, Unavailable

log = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]

LENGTH_MULTIPLE = 16
COST_TOKENS = (32, 64, 96, 128, 192, 256, 384, 512)
HERE = Path(__file__).parent
CROSS_ENCODERS = build.Compiler(
    "cross-encoder",
    "services.reranking.compile",
    "cross-encoders",
    (
        *(HERE / name for name in ("graph.py", "compile.py", "pairs.py", "checkpoint.py")),
        *(build.HERE / name for name in ("bert.py", "quantise.py", "calibration.txt")),
    ),
)


class Engine(Protocol):
    """Computes batches of at most `budget_tokens`, padding included; thread-safe. `dtype` is int8, bf16 or f32."""

    budget_tokens: int
    dtype: str

    def run(self, batches: Iterable[PairBatch], outputs: Float32) -> None:
        """Write each batch's logits into `outputs` (windows, 1)."""
        ...


class CrossEncoder:
    """A loaded cross-encoder. `score` may be called from many threads at once.

    `trimmed` says that the engine's last layer computes only the row that is read out: it decides `facts.gflop`.
    """

    def __init__(self, described: Description, engine: Engine, *, trimmed: bool) -> None:
        self._engine = engine
        self._pad_id = int(described.config.get("pad_token_id") or 0)
        self.tokenizer = PairTokenizer(described.tokenizer_json, described.max_tokens)
        lengths = (*(length for length in COST_TOKENS if length < described.max_tokens), described.max_tokens)
        work = tuple(gflop(described.config, length, trimmed=trimmed) for length in lengths)
        self.facts = CrossEncoderFacts(
            reference=described.reference,
            revision=described.folder.revision,
            dtype=engine.dtype,
            tokenizer=self.tokenizer.digest,
            cost_tokens=lengths,
            cost_ms=measured_ms(engine.run, lengths, work),
            gflop=work,
            languages=tuple(described.config.get("fathom_languages") or ()),
        )

    def score(self, pairs: Sequence[Pair]) -> Float32:
        """(n,) float32 logits in the order of `pairs` (token ids of query and passage); the highest of its windows."""
        windows = self.tokenizer.windows(pairs)
        logits = np.empty((len(windows.ids), 1), np.float32)
        budget = self._engine.budget_tokens
        batches = pair_batches(windows, budget_tokens=budget, multiple=LENGTH_MULTIPLE, pad_id=self._pad_id)
        self._engine.run(batches, logits)
        return windows.highest(logits[:, 0])


def load_cross_encoder(
    reference: str,
    *,
    cache_dir: str,
    threads: int | None = None,
    device: str = "auto",
    registry: str | None = None,
) -> CrossEncoder:
    """Load a cross-encoder; the first load on a machine builds its graph into `cache_dir`, later ones read it.

    `threads` of the CPU engine (default: all cores); `device` is auto | cpu | cuda; `registry` is the MLflow address
    that `models:/…` is read from. Raises `InvalidInput` for a reference that names no cross-encoder, `Unavailable`.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InvalidInput.field("/device", f"{device} is no device; choose auto, cpu or cuda")
    described = describe_cross_encoder(reference, registry=registry)
    if device == "cuda" or (device == "auto" and gpu_here()):
        return _on_torch(described, "cuda", threads)
    try:
        graph = graph_path(described.folder, None, cpu_precision(), Path(cache_dir), CROSS_ENCODERS)
    except UnsupportedArchitecture as reason:
        log.warning("%s", reason)
        return _on_torch(described, "cpu", threads)
    from services.embedding.openvino_engine import OpenVinoEngine

    return CrossEncoder(described, OpenVinoEngine(graph, threads), trimmed=True)


def _on_torch(described: Description, device: str, threads: int | None) -> CrossEncoder:
    from services.embedding.torch_engine import gpu_available
    from services.reranking.torch_engine import TorchPairs

    if device == "cuda" and not gpu_available():
        raise Unavailable("device is cuda, and torch sees no GPU here; set device to auto or cpu")
    return CrossEncoder(described, TorchPairs(described.folder.path, device, threads), trimmed=False)
