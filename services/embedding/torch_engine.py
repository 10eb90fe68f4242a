"""Runs an encoder with torch: bf16 on a GPU, fp32 on a CPU for architectures that OpenVINO does not know."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch

from services.embedding.graph import load_torch
from services.embedding.recipe import Recipe
from services.embedding.tokens import Batch

Float32 = npt.NDArray[np.float32]

GPU_BUDGET_TOKENS = 65_536
CPU_BUDGET_TOKENS = 4_096


class TorchEngine:
    """One model on one device. Calls are computed one after another: a device gains nothing from two at once."""

    def __init__(self, folder: Path, recipe: Recipe, device: str, threads: int | None) -> None:
        on_gpu = device == "cuda"
        if threads and not on_gpu:
            torch.set_num_threads(threads)
        self.budget_tokens = GPU_BUDGET_TOKENS if on_gpu else CPU_BUDGET_TOKENS
        self._device = torch.device(device)
        self._model = load_torch(folder, recipe, torch.bfloat16 if on_gpu else torch.float32).to(self._device)
        self._lock = Lock()

    def run(self, batches: Iterable[Batch], vectors: Float32) -> None:
        """Write the unit vector of each batch's windows into `vectors` (windows, d) float32."""
        with self._lock, torch.inference_mode():
            # Results are fetched at the end, so that the GPU works while the next batch is being laid out.
            done = [(batch.rows, self._model(*self._moved(batch))) for batch in batches]
            for rows, values in done:
                vectors[rows] = values.float().cpu().numpy()

    def _moved(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = torch.from_numpy(batch.ids), torch.from_numpy(batch.mask)
        return ids.to(self._device, non_blocking=True), mask.to(self._device, non_blocking=True)


def gpu_available() -> bool:
    """Whether torch can compute on a GPU here."""
    return torch.cuda.is_available()
