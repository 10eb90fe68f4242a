"""How a BERT graph's matrix products go to int8 without losing the vectors' meaning. No framework but OpenVINO.

Weights: symmetric, one scale an output channel. Inputs: 256 steps over one range a product. A few input channels
are many times larger than the rest (the [CLS] token's massive activations), and one range for all would leave
nothing for the others. As in SmoothQuant (Xiao et al. 2023) their size moves into the weights' columns, but only
theirs: smooth = max(1, 1.1·max|x|/τ), so that a channel which the calibration text left quiet keeps the full room
up to τ. τ is chosen per product by the error of its output on the half of the text that did not set the scales:
with the usual max|x|^α for every channel the unseen half was clipped, and the mean cosine to fp32 fell to .996.

Calibrated on the project's own text in `calibration.txt`, never on a tenant's, with rounded scales, so that every
node that builds from the same weights gets the same graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.embedding.bert import BertTrunk, InputScale, Product, quantised_weight
from services.embedding.native import openvino
from services.embedding.tokens import WindowTokenizer, batches

Float32 = npt.NDArray[np.float32]
Sample = Mapping[str, npt.NDArray[np.int64]]  # a graph's inputs by name

CALIBRATION_FILE = Path(__file__).with_name("calibration.txt")
HEADROOM = 1.1  # an outlier channel may exceed what the calibration text showed by this factor
THRESHOLDS = 7  # values of τ that are tried
JUDGED_TOKENS = 300  # per product
SIGNIFICANT_DIGITS = 3  # of scales: a last-bit difference between processors must not change the graph


def calibration_passages() -> list[str]:
    """The project's own text, a paragraph each."""
    return CALIBRATION_FILE.read_text("utf-8").strip().split("\n\n")


def calibration_samples(tokenizer_json: str, max_tokens: int) -> list[Sample]:
    """One sample a passage, without padding: padded positions would spoil the ranges."""
    windows = WindowTokenizer(tokenizer_json, max_tokens).windows(calibration_passages())
    ordered = batches(windows, budget_tokens=1, multiple=1, pad_id=0)
    return [{"input_ids": batch.ids, "attention_mask": batch.mask} for batch in ordered]


def int8_plan(bert: BertTrunk, samples: Sequence[Sample]) -> dict[str, InputScale]:
    """The input scale of every product of `bert`, by its key."""
    halves = (_inputs(bert, samples[::2]), _inputs(bert, samples[1::2]))
    plan: dict[str, InputScale] = {}
    for layer in bert.layers:
        for product in layer.products():
            plan[product.key] = best_scale(product, halves[0][product.key], halves[1][product.key])
    return plan


def best_scale(product: Product, seen: Float32, unseen: Float32) -> InputScale:
    """The scale with the least squared output error on `unseen` (t, k), its peaks then taken from both halves."""
    peaks = np.abs(seen).max(axis=0)
    floor = float(min(seen.min(), unseen.min()))
    judged = unseen[:: max(1, len(unseen) // JUDGED_TOKENS)]
    exact = judged @ product.weight.T
    candidates = np.geomspace(0.7 * np.median(peaks), HEADROOM * peaks.max(), THRESHOLDS)
    errors = [_error(product, judged, exact, scale_at(float(tau), peaks, floor)) for tau in candidates]
    both = np.maximum(peaks, np.abs(unseen).max(axis=0))
    return scale_at(float(candidates[int(np.argmin(errors))]), both, floor)


def scale_at(threshold: float, peaks: Float32, floor: float) -> InputScale:
    """The scale whose range ends at `threshold`; inputs with a small negative `floor` (GELU's) get most of the steps.

    The range holds 0 on a step exactly, so that nothing is added where the input is silent.
    """
    smooth = _rounded(np.maximum(HEADROOM * peaks / threshold, 1.0)).astype(np.float32)
    if floor < -threshold / 2:
        step = float(_rounded(threshold / 128))
        return InputScale(smooth, -128 * step, 127 * step)
    step = float(_rounded((threshold - floor) / 255))
    below = float(np.ceil(-floor / step))
    return InputScale(smooth, -below * step, (255 - below) * step)


def agreement(graph: Any, other: Any, samples: Sequence[Sample]) -> float:
    """Mean cosine similarity of the two graphs' unit vectors over `samples`, in [-1, 1]; computed in fp32."""
    pairs = zip(outputs(graph, samples), outputs(other, samples), strict=True)
    return float(np.mean([np.sum(left[0] * right[0], axis=-1).mean() for left, right in pairs]))


def _error(product: Product, inputs: Float32, exact: Float32, scale: InputScale) -> float:
    step = (scale.high - scale.low) / 255
    whole = np.rint((np.clip(inputs / scale.smooth, scale.low, scale.high) - scale.low) / step)
    weight, weight_step = quantised_weight(product.weight * scale.smooth)
    approximate = (whole * step + scale.low).astype(np.float32) @ (weight * weight_step).T
    return float(np.square(approximate - exact).sum())


def _inputs(bert: BertTrunk, samples: Sequence[Sample]) -> dict[str, Float32]:
    model, keys = bert.tapped()
    collected: dict[str, list[Float32]] = {key: [] for key in keys}
    for results in outputs(model, samples):
        for key, values in zip(keys, results[1:], strict=True):
            collected[key].append(values.reshape(-1, values.shape[-1]))
    return {key: np.concatenate(parts) for key, parts in collected.items()}


def outputs(graph: Any, samples: Sequence[Sample]) -> Iterator[list[Float32]]:
    """What `graph` gives for each sample, every output in order; computed in fp32."""
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for sample in samples:
        results = compiled(dict(sample))
        yield [np.array(results[port], np.float32) for port in compiled.outputs]


def _rounded(value: Any) -> Any:
    exponent = np.floor(np.log10(np.abs(value)))
    unit = 10.0 ** (exponent - SIGNIFICANT_DIGITS + 1)
    return np.rint(value / unit) * unit
