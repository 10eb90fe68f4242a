"""Any Hugging Face encoder folder → one OpenVINO graph from token ids to unit vectors, traced from torch.

For the architectures that `bert.py` does not build itself; stays in float. Needs torch only to build.

Input  input_ids (b, length) int64, attention_mask (b, length) int64, 1 = token.
Output vector (b, dimension) float32 unit rows: pooled as the recipe says, then x / max(‖x‖, 1e-12).
Mean pooling: Σ mask·h / Σ mask, over the last hidden state h, as sentence-transformers does.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from services.embedding.native import openvino
from services.embedding.recipe import Pooling, Recipe


class PooledEncoder(torch.nn.Module):
    """The encoder with its pooling and normalisation, so that only d numbers a text leave the engine."""

    def __init__(self, encoder: torch.nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(b, length) ids and mask → (b, d) unit rows."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = _pool(hidden, attention_mask, self.pooling)
        return torch.nn.functional.normalize(pooled.float(), dim=-1)


def _pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    kept = mask.unsqueeze(-1)
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "lasttoken":
        last = (mask.sum(dim=1, keepdim=True) - 1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return hidden.gather(1, last).squeeze(1)
    if pooling == "max":
        return hidden.masked_fill(kept == 0, torch.finfo(hidden.dtype).min).amax(dim=1)
    weights = kept.to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def load_torch(folder: Path, recipe: Recipe, dtype: torch.dtype = torch.float32) -> PooledEncoder:
    """The folder's weights in torch, in evaluation mode. Only safetensors are read, never pickles or remote code."""
    encoder = AutoModel.from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    return PooledEncoder(encoder, recipe.pooling).eval()


def build_graph(folder: Path, recipe: Recipe) -> Any:
    """The fp32 `openvino.Model` with dynamic batch and length."""
    module = load_torch(folder, recipe)
    ids = torch.ones((2, 16), dtype=torch.int64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every branch on a shape; parity is tested
        model = openvino.convert_model(module, example_input={"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    model.reshape({port: openvino.PartialShape([-1, -1]) for port in model.inputs})
    return model
