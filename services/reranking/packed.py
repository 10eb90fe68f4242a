"""Windows packed into one row without padding, for the transformers architectures whose attention can be replaced.

A row (1, total) holds the tokens of all windows one after another; `bounds` (n + 1,) int32 are the places where they
start, and the end. Every token knows its position in its own window, attention looks only between two bounds, all
else is computed token by token: the logits are those of padded batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface

from services.embedding.bert import FIRST_POSITION
from services.reranking.pairs import PairBatch

ATTENTION = "fathom_packed"
PACKED = (*FIRST_POSITION, "modernbert")


def packs(model_type: str) -> bool:
    """Whether windows of this architecture can be packed."""
    return model_type in PACKED


class PackedPairs:
    """A `…ForSequenceClassification` that was loaded with `attn_implementation=ATTENTION`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._first = FIRST_POSITION.get(model.config.model_type, 0)
        self._typed = int(getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def logits(self, group: Sequence[PairBatch], device: torch.device) -> torch.Tensor:
        """(n, 1) logits of the windows of all batches, one after another."""
        kept = [batch.mask.astype(bool) for batch in group]
        lengths = np.concatenate([mask.sum(axis=1) for mask in kept])
        bounds = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        ids = np.concatenate([batch.ids[mask] for batch, mask in zip(group, kept, strict=True)])
        places = np.arange(len(ids)) - np.repeat(bounds[:-1], lengths) + self._first
        starts = moved(bounds, device)
        extra = {}
        if self._typed:
            types = np.concatenate([batch.types[mask] for batch, mask in zip(group, kept, strict=True)])
            extra["token_type_ids"] = moved(types, device)[None]
        hidden = self.model.base_model(
            input_ids=moved(ids, device)[None],
            position_ids=moved(places, device)[None],
            bounds=starts,
            longest=int(lengths.max()),
            **extra,
        ).last_hidden_state
        return self._head(hidden[0], starts)

    def _head(self, hidden: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        model = self.model
        first = hidden[bounds[:-1].long()]
        if model.config.model_type == "modernbert":
            pooled = model.head(first if model.config.classifier_pooling == "cls" else _means(hidden, bounds))
        elif model.config.model_type == "bert":
            pooled = model.bert.pooler(first[:, None])
        else:
            pooled = first[:, None]  # RoBERTa's classifier takes the first token itself
        logits: torch.Tensor = model.classifier(pooled)
        return logits


def moved(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """`array` on the device."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    bounds: torch.Tensor,
    longest: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """(1, heads, total, d) each → (1, total, heads, d); with a sliding window s, |i − j| < s."""
    reach = -1 if sliding_window is None else sliding_window - 1
    if not query.is_cuda:
        return _window_by_window(query, key, value, bounds, scaling, reach), None
    q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    mixed = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(reach, reach))
    assert isinstance(mixed, torch.Tensor)  # a tuple only where auxiliary results are asked for
    return mixed[None], None


def _window_by_window(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, scale: float | None, reach: int
) -> torch.Tensor:
    """The same without a kernel for packed rows, which torch has for GPUs only."""
    parts: list[torch.Tensor] = []
    for start, end in pairwise(bounds.tolist()):
        places = torch.arange(end - start)
        near = None if reach < 0 else (places[:, None] - places).abs() <= reach
        q, k, v = (part[:, :, start:end] for part in (query, key, value))
        parts.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near, scale=scale))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _means(hidden: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    lengths = bounds.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    sums = torch.zeros(len(lengths), hidden.shape[1], dtype=torch.float32, device=hidden.device)
    sums.index_add_(0, owner, hidden.float())
    return (sums / lengths[:, None]).to(hidden.dtype)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
