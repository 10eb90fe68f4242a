"""Runs a cross-encoder with torch: bf16 on a GPU, fp32 on a CPU for architectures that OpenVINO's own graph lacks.

Where the architecture's attention can be replaced, windows are packed into one row without padding, and attention
keeps to each window's bounds (`packed.py`); other architectures get padded batches of one width.

On a CPU windows are computed one by one: that is no slower once a window has some dozen tokens, and a logit's bits do
not depend on the company. On a GPU they may in the last bits: its libraries choose a kernel by the batch's size.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from services.reranking.checkpoint import complete_folder
from services.reranking.packed import ATTENTION, PackedPairs, moved, packs
from services.reranking.pairs import PairBatch

Float32 = npt.NDArray[np.float32]

GPU_BUDGET_TOKENS = 65_536
CPU_BUDGET_TOKENS = 1


class TorchPairs:
    """One model on one device. Calls are computed one after another: a device gains nothing from two at once."""

    def __init__(self, folder: Path, device: str, threads: int | None) -> None:
        on_gpu = device == "cuda"
        if threads and not on_gpu:
            torch.set_num_threads(threads)
        self.budget_tokens = GPU_BUDGET_TOKENS if on_gpu else CPU_BUDGET_TOKENS
        self.dtype = "bf16" if on_gpu else "f32"
        self._device = torch.device(device)
        self._model = _loaded(folder, self._device)
        self._lock = Lock()

    def run(self, batches: Iterable[PairBatch], outputs: Float32) -> None:
        """Write each batch's logits into `outputs` (windows, 1)."""
        with self._lock, torch.inference_mode():
            # Results are fetched at the end, so that the GPU works while the next batch is being laid out.
            done = [(rows, self._model.logits(group, self._device)) for rows, group in self._grouped(batches)]
            for rows, logits in done:
                outputs[rows, 0] = logits.float().cpu().numpy().reshape(-1)

    def _grouped(self, batches: Iterable[PairBatch]) -> Iterator[tuple[npt.NDArray[np.int64], list[PairBatch]]]:
        """Batches to compute in one call: of several widths where windows are packed, as many as the budget holds."""
        group: list[PairBatch] = []
        size = 0
        for batch in batches:
            if group and (isinstance(self._model, _Padded) or size + batch.ids.size > self.budget_tokens):
                yield np.concatenate([one.rows for one in group]), group
                group, size = [], 0
            group.append(batch)
            size += batch.ids.size
        if group:
            yield np.concatenate([one.rows for one in group]), group


class _Padded:
    """Any `…ForSequenceClassification` on padded batches."""

    def __init__(self, model: Any) -> None:
        self.model = model
        accepts = "token_type_ids" in inspect.signature(model.forward).parameters
        self._typed = accepts and int(getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def logits(self, group: Sequence[PairBatch], device: torch.device) -> torch.Tensor:
        """(b, 1) logits of a group of one batch."""
        ids, mask, types = (moved(array, device) for array in group[0].inputs)
        extra = {"token_type_ids": types} if self._typed else {}
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, **extra).logits
        return logits


def _loaded(folder: Path, device: torch.device) -> PackedPairs | _Padded:
    """The folder's model in evaluation mode. Only safetensors are read, never pickles or remote code."""
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    options["dtype"] = torch.bfloat16 if device.type == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as draft:
        whole = str(complete_folder(folder, Path(draft)))
        packed = packs(AutoConfig.from_pretrained(whole).model_type) and _has_kernel(device)
        if packed:
            options["attn_implementation"] = ATTENTION
        model = AutoModelForSequenceClassification.from_pretrained(whole, **options).eval().to(device)
    return PackedPairs(model) if packed else _Padded(model)


def _has_kernel(device: torch.device) -> bool:
    """Whether attention over packed rows can be computed there: on a GPU its kernel needs Ampere or newer."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
