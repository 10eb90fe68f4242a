"""What a pair costs, by length: measured milliseconds, and GFLOP by formula. Pure but for the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from services.reranking.pairs import PairBatch
from tenants.errors import InvalidInput

Run = Callable[[Iterable[PairBatch], npt.NDArray[np.float32]], None]

MEASURED_TOKENS = 1_024  # a batch of this many tokens runs at nearly the speed of a full one
MEASURING_S = 0.6  # for all lengths together; what is left over is scaled by its GFLOP
REPEATS = 2
WIDTHS = ("hidden_size", "dim", "d_model")  # BERT's name, DistilBERT's, T5's
LAYERS = ("num_hidden_layers", "n_layers", "num_layers")
INNER = ("intermediate_size", "hidden_dim", "d_ff")
_ONE_AT_A_TIME = threading.Lock()  # models that load side by side must not measure each other
GATED = ("modernbert",)  # architectures whose feed-forward layer has two matrices upwards


def gflop(config: Mapping[str, Any], tokens: int, *, trimmed: bool) -> float:
    """Floating-point work of one pair of `tokens` tokens L, in 10⁹ operations; a multiply-add counts as two.

    A layer of width d and inner width f on L tokens: 2L(4d² + 2df) for its products, 4L²d for attention; a gated one
    has 3df. A `trimmed` last layer has 2L·2d² for keys and values, 2(2d² + 2df) + 4Ld for the one row. Embeddings,
    norms, activations and the head are left out: they are under 1 %.
    """
    width, layers = _size(config, WIDTHS), _size(config, LAYERS)
    inner = _size(config, INNER)
    feed = (3 if config.get("model_type") in GATED else 2) * width * inner
    whole = 2 * tokens * (4 * width**2 + feed) + 4 * tokens**2 * width
    last = 2 * tokens * 2 * width**2 + 2 * (2 * width**2 + feed) + 4 * tokens * width if trimmed else whole
    return ((layers - 1) * whole + last) / 1e9


def _size(config: Mapping[str, Any], names: Sequence[str]) -> int:
    found = next((config[name] for name in names if name in config), None)
    if found is None:
        raise InvalidInput.field("/reranker", f"config.json has none of {', '.join(names)}; is it an encoder?")
    return int(found)


def measured_ms(run: Run, lengths: Sequence[int], work: Sequence[float]) -> tuple[float, ...]:
    """Milliseconds of one pair of each length in a batch, ascending: the best of `REPEATS` after one to warm up.

    Takes about `MEASURING_S`; lengths that it does not come to cost their share of `work` (GFLOP).
    """
    found: list[float] = []
    with _ONE_AT_A_TIME:
        deadline = time.perf_counter() + MEASURING_S
        for length in lengths:
            if found and time.perf_counter() > deadline:
                found.append(found[-1] * work[len(found)] / work[len(found) - 1])
            else:
                found.append(_best_ms(run, length))
    return tuple(float(value) for value in np.maximum.accumulate(found))  # noise must not make a longer pair cheaper


def _best_ms(run: Run, length: int) -> float:
    batch = _filled(max(1, MEASURED_TOKENS // length), length)
    logits = np.empty((len(batch.rows), 1), np.float32)
    times: list[float] = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run([batch], logits)
        times.append(time.perf_counter() - start)
    return min(times[1:]) * 1000 / len(batch.rows)


def _filled(rows: int, length: int) -> PairBatch:
    ids = np.ones((rows, length), np.int64)
    return PairBatch(np.arange(rows), ids, np.ones_like(ids), np.zeros_like(ids))
