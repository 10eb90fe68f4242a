"""Runs an encoder's or a cross-encoder's graph on the CPU with OpenVINO.

Thread-safe: each call takes its own request from a pool.

One stream over all threads: on few cores that beats several streams for a batch, and gives a single question every
core. Calls that meet take turns batch by batch, so that a question waits for one batch of a long call, not for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import openvino

from services.embedding.build import precision_of

Float32 = npt.NDArray[np.float32]

BUDGET_TOKENS = 4_096  # fits the activations of a MiniLM-sized layer into the second-level caches
PARALLEL_REQUESTS = 4  # calls that may be inside the engine at once; more wait for a free request


class Fed(Protocol):
    """A batch: its rows' numbers, and what the graph is fed, in the graph's order."""

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """(b,) int64."""
        ...

    @property
    def inputs(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Each (b, length) int64."""
        ...


class OpenVinoEngine:
    """One compiled model with a pool of inference requests; `dtype` is int8, bf16 or f32, what most of it runs on."""

    budget_tokens = BUDGET_TOKENS

    def __init__(self, graph: Path, threads: int | None) -> None:
        core = openvino.Core()
        native_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        config["INFERENCE_PRECISION_HINT"] = "bf16" if native_bf16 else "f32"
        self.dtype = "int8" if precision_of(graph) == "int8" else str(config["INFERENCE_PRECISION_HINT"])
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        self._compiled = core.compile_model(str(graph), "CPU", config)
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(PARALLEL_REQUESTS):
            self._free.put(self._compiled.create_infer_request())

    def run(self, batches: Iterable[Fed], vectors: Float32) -> None:
        """Write the output of each batch's rows, a unit vector or a logit, into `vectors` (windows, d) float32."""
        request = self._free.get()
        try:
            for batch in batches:
                request.infer(dict(enumerate(batch.inputs)))
                vectors[batch.rows] = request.get_output_tensor(0).data
        finally:
            self._free.put(request)
