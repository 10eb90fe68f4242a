"""Runs an encoder's or a cross-encoder's graph on the CPU with OpenVINO.

Thread-safe: each call takes requests of its own from a pool.

One stream a core, each of one thread: a question costs half the CPU time that it costs on two threads, which wait for
each other layer by layer, and a batch is cut into as many parts as there are streams. Calls that meet take turns part
by part, so that a question waits for one part of a long call, not for all.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from services.embedding.build import precision_of
from services.embedding.native import openvino

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Part = tuple[Int64, tuple[Int64, ...]]

BUDGET_TOKENS = 4_096  # a part of it fits the activations of a MiniLM-sized layer into the second-level caches
SPLIT_TOKENS = 128  # a smaller batch stays whole: starting a second request costs as much as it saves
WAITING_CALLS = 4  # beyond those that keep every stream at work; more wait for a free request


class Fed(Protocol):
    """A batch: its rows' numbers, and what the graph is fed, in the graph's order."""

    @property
    def rows(self) -> Int64:
        """(b,) int64."""
        ...

    @property
    def inputs(self) -> tuple[Int64, ...]:
        """Each (b, length) int64."""
        ...


class OpenVinoEngine:
    """One compiled model with a pool of inference requests; `dtype` is int8, bf16 or f32, what most of it runs on."""

    budget_tokens = BUDGET_TOKENS

    def __init__(self, graph: Path, threads: int | None) -> None:
        core = openvino.Core()
        native_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._streams = threads or os.cpu_count() or 1
        config: dict[str, Any] = {"NUM_STREAMS": self._streams, "INFERENCE_NUM_THREADS": self._streams}
        config["INFERENCE_PRECISION_HINT"] = "bf16" if native_bf16 else "f32"
        self.dtype = "int8" if precision_of(graph) == "int8" else str(config["INFERENCE_PRECISION_HINT"])
        self._compiled = core.compile_model(str(graph), "CPU", config)
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._streams + WAITING_CALLS):
            self._free.put(self._compiled.create_infer_request())

    def run(self, batches: Iterable[Fed], vectors: Float32) -> None:
        """Write the output of each batch's rows, a unit vector or a logit, into `vectors` (windows, d) float32."""
        idle, busy = self._taken(), deque[tuple[Any, Int64]]()
        try:
            for rows, inputs in (part for batch in batches for part in self._parts(batch)):
                if not idle:
                    idle.append(_finished(busy, vectors))
                request = idle.pop()
                busy.append((request, rows))
                request.start_async(dict(enumerate(inputs)))
            while busy:
                idle.append(_finished(busy, vectors))
        finally:
            # Only after an error: requests that may still run end with this call, and others take their places.
            idle.extend(self._compiled.create_infer_request() for _ in busy)
            for request in idle:
                self._free.put(request)

    def _taken(self) -> list[Any]:
        """A request, and those that lie idle, up to one a stream."""
        taken = [self._free.get()]
        while len(taken) < self._streams:
            try:
                taken.append(self._free.get_nowait())
            except Empty:
                break
        return taken

    def _parts(self, batch: Fed) -> Iterator[Part]:
        tokens = batch.inputs[0].size
        count = min(self._streams, len(batch.rows), max(1, tokens // SPLIT_TOKENS))
        for places in np.array_split(np.arange(len(batch.rows)), count):
            part = slice(int(places[0]), int(places[-1]) + 1)
            yield batch.rows[part], tuple(values[part] for values in batch.inputs)


def _finished(busy: deque[tuple[Any, Int64]], vectors: Float32) -> Any:
    """Wait for the oldest request, write what it found, and give it back."""
    request, rows = busy[0]
    request.wait()
    busy.popleft()
    vectors[rows] = request.get_output_tensor(0).data
    return request
