"""Cross-encoders on a GPU: pairs per second, share of the card's ceiling, a request's latency. Needs no part of Fathom.

    python benchmarks/gpu_rerank.py [--model minilm modernbert] [--folder FOLDER] [--tokens 200] [--pairs 20000]
        [--budget 65536] [--request 32] [--device cuda|cpu] [--layers N]

Models have random weights: `minilm` is MiniLM-L6's shape (22.7M parameters), `modernbert` ModernBERT-base's (150M);
`--folder` measures a Hugging Face cross-encoder's own weights instead. Every mode computes the same pairs in bf16,
copies to and from the card included:
  padded    transformers as it comes (sdpa, attention mask), lengths sorted, batches of the budget
  packed    windows in one row without padding, torch's varlen attention: what services/reranking/packed.py does
  compiled  the same through torch.compile
  graph     packed, replayed from a CUDA graph: only the request, whose shape is known
`uniform` pairs have `--tokens` each, `mixed` ones between 0.3 and 1.7 times as many. The ceiling is a bf16 product of
two 8192² matrices. GFLOP of a pair of L tokens, width d, inner width f, per layer: 2L(4d² + 2df or, gated, 3df) + 4L²d.
Prints one JSON document; a mode that the machine cannot run says why.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    ModernBertConfig,
)

Lengths = np.ndarray[Any, np.dtype[np.int64]]
Mode = Callable[[Lengths], torch.Tensor]

PACKED = "packed"
REPEATS = 50  # requests whose latency is taken
TIMED = 3
SHAPES: dict[str, Any] = {
    "minilm": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "modernbert": ModernBertConfig(),
}


class Packed:
    """Scores windows of given lengths, ids at random; every batch is laid out on the host and copied, as in serving."""

    def __init__(self, model: Any, device: torch.device, budget: int) -> None:
        self._model = model
        self._trunk = model.base_model
        self._device = device
        self._budget = budget
        self._typed = model.config.model_type == "bert"

    def compiled(self) -> Packed:
        """The same through torch.compile."""
        other = Packed(self._model, self._device, self._budget)
        other._trunk = torch.compile(self._model.base_model)
        return other

    def __call__(self, lengths: Lengths) -> torch.Tensor:
        """(n, 1) logits, on the host."""
        done = [self.batch(*self.laid_out(part)) for part in _batches(lengths, self._budget, padded=False)]
        return torch.cat([logits.float() for logits in done]).cpu()

    def laid_out(self, lengths: Lengths) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Ids, positions (total,), bounds (n + 1,) on the device, and the longest window."""
        ends = np.concatenate(([0], np.cumsum(lengths)))
        places = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
        parts = (_ids(int(ends[-1])), places, ends.astype(np.int32))
        ids, positions, bounds = (torch.from_numpy(part).to(self._device) for part in parts)
        return ids, positions, bounds, int(lengths.max())

    def batch(self, ids: torch.Tensor, places: torch.Tensor, bounds: torch.Tensor, longest: int) -> torch.Tensor:
        """(n, 1) logits of the windows of one row, on the device."""
        extra = {"token_type_ids": torch.zeros_like(ids)[None]} if self._typed else {}
        hidden = self._trunk(input_ids=ids[None], position_ids=places[None], bounds=bounds, longest=longest, **extra)
        first = hidden.last_hidden_state[0][bounds[:-1].long()]
        pooled = self._model.bert.pooler(first[:, None]) if self._typed else self._model.head(first)
        logits: torch.Tensor = self._model.classifier(pooled)
        return logits


class Padded:
    """The same by transformers alone."""

    def __init__(self, model: Any, device: torch.device, budget: int) -> None:
        self._model, self._device, self._budget = model, device, budget

    def __call__(self, lengths: Lengths) -> torch.Tensor:
        """(n, 1) logits, on the host, longest first."""
        done = []
        for part in _batches(np.sort(lengths)[::-1], self._budget, padded=True):
            ids = torch.from_numpy(_ids(len(part) * int(part.max())).reshape(len(part), -1))
            mask = torch.from_numpy((np.arange(part.max()) < part[:, None]).astype(np.int64))
            done.append(self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits)
        return torch.cat([logits.float() for logits in done]).cpu()


class Replayed:
    """One request of a known shape, replayed from a CUDA graph; inputs are copied in, logits out."""

    def __init__(self, packed: Packed, lengths: Lengths) -> None:
        self._packed = packed
        self._inputs = packed.laid_out(lengths)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                packed.batch(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = packed.batch(*self._inputs)

    def __call__(self, lengths: Lengths) -> torch.Tensor:
        """(n, 1) logits, on the host."""
        fresh = self._packed.laid_out(lengths)
        for kept, new in zip(self._inputs[:3], fresh[:3], strict=True):
            kept.copy_(new)
        self._graph.replay()
        return self._logits.float().cpu()


def main() -> None:
    options = _parser().parse_args()
    AttentionInterface.register(PACKED, _attention)
    AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
    device = torch.device(options.device)
    ceiling = _ceiling(device)
    names = [options.folder] if options.folder else options.model
    with torch.inference_mode():
        models = {name: _measured(name, options, device, ceiling) for name in names}
    card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    report = {
        "card": card,
        "ceiling_tflops": round(ceiling / 1e3, 2),
        "models": models,
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(json.dumps(report, indent=1))


def _measured(name: str, options: argparse.Namespace, device: torch.device, ceiling: float) -> dict[str, Any]:
    packed = Packed(_model(name, PACKED, options, device), device, options.budget)
    padded = Padded(_model(name, "sdpa", options, device), device, options.budget)
    chance = np.random.default_rng(0)
    uniform = np.full(options.pairs, options.tokens)
    mixed = chance.integers(int(0.3 * options.tokens), int(1.7 * options.tokens) + 1, options.pairs)
    request = mixed[: options.request]
    modes: dict[str, Callable[[], Mode]] = {"padded": lambda: padded, "packed": lambda: packed}
    if device.type == "cuda":
        modes["compiled"] = packed.compiled
    found: dict[str, Any] = {
        mode: _guarded(partial(_rates, make, uniform, mixed, request)) for mode, make in modes.items()
    }
    if device.type == "cuda":
        found["graph"] = _guarded(lambda: {"request_ms": _latency(Replayed(packed, request), request)})
    work = _gflop(packed._model.config, options.tokens)
    best = max(found[mode].get("uniform_pairs_per_s", 0) for mode in modes)
    same = _guarded(lambda: {"largest_difference": _difference(options, packed, padded)})
    share = round(best * work / ceiling, 3)
    return found | {"gflop_per_pair": round(work, 2), "share_of_ceiling": share, "packed_against_padded": same}


def _rates(make: Callable[[], Mode], uniform: Lengths, mixed: Lengths, request: Lengths) -> dict[str, Any]:
    mode = make()
    return {
        "uniform_pairs_per_s": round(len(uniform) / _best(lambda: mode(uniform)), 1),
        "mixed_pairs_per_s": round(len(mixed) / _best(lambda: mode(mixed)), 1),
        "request_ms": _latency(mode, request),
    }


def _latency(mode: Mode, request: Lengths) -> dict[str, float]:
    mode(request)
    times = [_seconds(lambda: mode(request)) * 1e3 for _ in range(REPEATS)]
    return {name: round(float(np.percentile(times, at)), 2) for name, at in (("p50", 50), ("p95", 95))}


def _difference(options: argparse.Namespace, packed: Packed, padded: Padded) -> float:
    """Of the logits of both modes on windows of one length, whose ids are the same."""
    lengths = np.full(8, options.tokens)
    return float((packed(lengths) - padded(lengths)).abs().max())


def _guarded(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measure()
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}


def _model(name: str, attention: str, options: argparse.Namespace, device: torch.device) -> Any:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if options.folder:
        loaded = AutoModelForSequenceClassification.from_pretrained(name, dtype=dtype, attn_implementation=attention)
        return loaded.eval().to(device)
    config = SHAPES[name]
    shape = config.to_dict() | {"num_labels": 1} | ({"num_hidden_layers": options.layers} if options.layers else {})
    for derived in ("layer_types", "id2label", "label2id"):
        shape.pop(derived, None)
    fresh = AutoConfig.for_model(**shape)
    return (
        AutoModelForSequenceClassification.from_config(fresh, attn_implementation=attention).to(dtype).eval().to(device)
    )


def _attention(
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
    reach = -1 if sliding_window is None else sliding_window - 1
    if query.is_cuda:
        q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
        mixed = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(reach, reach))
        assert isinstance(mixed, torch.Tensor)
        return mixed[None], None
    parts = []
    for start, end in pairwise(bounds.tolist()):
        places = torch.arange(end - start)
        near = None if reach < 0 else (places[:, None] - places).abs() <= reach
        q, k, v = (part[:, :, start:end] for part in (query, key, value))
        parts.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near, scale=scaling))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _batches(lengths: Lengths, budget: int, *, padded: bool) -> Iterator[Lengths]:
    start = size = 0
    for end, length in enumerate(lengths):
        grown = (end + 1 - start) * int(lengths[start]) if padded else size + int(length)
        if end > start and grown > budget:
            yield lengths[start:end]
            start, size = end, 0
        size += int(length)
    yield lengths[start:]


def _ids(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(count, dtype=np.int64) % 25_000 + 1_000


def _gflop(config: Any, tokens: int) -> float:
    width, inner = config.hidden_size, config.intermediate_size
    feed = (3 if config.model_type == "modernbert" else 2) * width * inner
    return float(config.num_hidden_layers * (2 * tokens * (4 * width**2 + feed) + 4 * tokens**2 * width) / 1e9)


def _ceiling(device: torch.device) -> float:
    """GFLOP/s of one large bf16 product."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))

    def product() -> None:
        for _ in range(10):
            torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 10 * 2 * size**3 / _best(product) / 1e9


def _best(work: Callable[[], Any]) -> float:
    work()
    return min(_seconds(work) for _ in range(TIMED))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--folder", help="a Hugging Face cross-encoder to measure instead")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--budget", type=int, default=65_536, help="tokens of a batch")
    parser.add_argument("--request", type=int, default=32, help="pairs of the request whose latency is taken")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--layers", type=int, help="of random models, for a quick try")
    return parser


if __name__ == "__main__":
    main()
