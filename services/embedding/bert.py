"""A BERT or RoBERTa folder → an OpenVINO graph from token ids to unit vectors, built straight from the weights.

Needs neither torch nor transformers. With a plan, the products named in it run on int8; all else stays float.

Input  input_ids (b, length) int64, attention_mask (b, length) int64, 1 = token, padding on the right.
Output vector (b, d) float32 unit rows. Layer (Devlin et al. 2018, post-norm): x ← LN(x + O·softmax(QKᵀ/√h)V),
x ← LN(x + D·gelu(U·x)). Mean pooling is Σ mask·x; the division by Σ mask falls to the normalisation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import openvino.opset15 as ops
from safetensors import safe_open

from services.embedding.recipe import Recipe

Float32 = npt.NDArray[np.float32]
Weights = Mapping[str, Float32]

MASKED = 10_000.0  # subtracted from the scores of padding: exp(−10,000) is 0 in every float type
NORM_FLOOR = 1e-12
# position ids of RoBERTa start behind its padding index; BERT's start at 0
FIRST_POSITION = {"bert": 0, "roberta": 2, "xlm-roberta": 2, "camembert": 2}
ACTIVATIONS = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


@dataclass(frozen=True, slots=True)
class InputScale:
    """How one product's input becomes 8 bits: x / smooth, clipped to [low, high], in 256 equal steps.

    `smooth` (k,) float32 ≥ 1 per input channel, moved into the weights' columns; `low` ≤ 0 ≤ `high`.
    """

    smooth: Float32
    low: float
    high: float


Plan = Mapping[str, InputScale]


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product y = x·Wᵀ + b: `weight` (n, k), `bias` (n,); `key` names its input, `2.down` for instance."""

    key: str
    weight: Float32
    bias: Float32


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's products; query, key and value share the input `i.qkv`, the query carries the 1/√h."""

    attention: tuple[Product, Product, Product]
    output: Product
    up: Product
    down: Product

    def products(self) -> tuple[Product, ...]:
        """The four distinct inputs' products, query, key and value stacked into one."""
        stacked = Product(
            self.attention[0].key,
            np.concatenate([part.weight for part in self.attention]),
            np.concatenate([part.bias for part in self.attention]),
        )
        return (stacked, self.output, self.up, self.down)


def supports(folder: Path, recipe: Recipe) -> bool:
    """Whether this module can build the folder's architecture and pooling."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return (
        config.get("model_type") in FIRST_POSITION
        and recipe.pooling in ("mean", "cls")
        and config.get("hidden_act") in ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
        and all(kind in ("F32", "F16") for kind in _dtypes(folder))
    )


class BertGraph:
    """The folder's weights and how they connect."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._config = json.loads((folder / "config.json").read_text("utf-8"))
        self._weights = _weights(folder)
        self._recipe = recipe
        self.layers = tuple(self._layer(number) for number in range(self._config["num_hidden_layers"]))

    def model(self, plan: Plan | None = None) -> Any:
        """The `openvino.Model` with one output, `vector`."""
        return self._connected(plan or {})[0]

    def tapped(self) -> tuple[Any, tuple[str, ...]]:
        """The float model that also gives every product's input (b, length, k), and those inputs' keys in order."""
        model, taps = self._connected({})
        model.add_outputs([node.output(0) for node in taps.values()])
        return model, tuple(taps)

    def _connected(self, plan: Plan) -> tuple[Any, dict[str, Any]]:
        ids = _parameter("input_ids")
        mask = _parameter("attention_mask")
        kept = ops.convert(mask, openvino.Type.f32)
        penalty = ops.multiply(ops.subtract(kept, _const(np.float32(1))), _const(np.float32(MASKED)))
        penalty = ops.unsqueeze(penalty, _ints([1, 2]))
        taps: dict[str, Any] = {}
        hidden = self._embedded(ids)
        for number, layer in enumerate(self.layers):
            hidden = self._through(layer, f"encoder.layer.{number}.", hidden, penalty, plan, taps)
        vector = ops.normalize_l2(self._pooled(hidden, kept), _ints([1]), NORM_FLOOR**2, "max")
        vector.output(0).set_names({"vector"})
        return openvino.Model([ops.result(vector)], [ids, mask], "encoder"), taps

    def _embedded(self, ids: Any) -> Any:
        first = FIRST_POSITION[self._config["model_type"]]
        places = self._weights["embeddings.position_embeddings.weight"][first:]
        places = places + self._weights["embeddings.token_type_embeddings.weight"][0]
        length = ops.gather(ops.shape_of(ids), _ints([1]), _ints(0))
        positions = ops.slice(_const(places), _ints([0]), length, _ints([1]), _ints([0]))
        words = ops.gather(_const(self._weights["embeddings.word_embeddings.weight"]), ids, _ints(0))
        return self._normed(ops.add(words, ops.unsqueeze(positions, _ints(0))), "embeddings.LayerNorm")

    def _through(self, layer: Layer, name: str, x: Any, penalty: Any, plan: Plan, taps: dict[str, Any]) -> Any:
        heads = self._heads()
        query, key, value = _products(x, layer.attention, plan, taps)
        scores = ops.matmul(_split(query, heads, (0, 2, 1, 3)), _split(key, heads, (0, 2, 3, 1)), False, False)
        shares = ops.softmax(ops.add(scores, penalty), -1)
        context = ops.matmul(shares, _split(value, heads, (0, 2, 1, 3)), False, False)
        context = ops.reshape(ops.transpose(context, _ints([0, 2, 1, 3])), _ints([0, 0, heads[0] * heads[1]]), True)
        (attended,) = _products(context, (layer.output,), plan, taps)
        x = self._normed(ops.add(attended, x), name + "attention.output.LayerNorm")
        (wide,) = _products(x, (layer.up,), plan, taps)
        wide = ops.gelu(wide, ACTIVATIONS[self._config["hidden_act"]])
        (narrow,) = _products(wide, (layer.down,), plan, taps)
        return self._normed(ops.add(narrow, x), name + "output.LayerNorm")

    def _normed(self, x: Any, name: str) -> Any:
        centred = ops.mvn(x, _ints([-1]), True, float(self._config["layer_norm_eps"]), "inside_sqrt")
        scaled = ops.multiply(centred, _const(self._weights[name + ".weight"]))
        return ops.add(scaled, _const(self._weights[name + ".bias"]))

    def _pooled(self, hidden: Any, kept: Any) -> Any:
        if self._recipe.pooling == "cls":
            return ops.gather(hidden, _ints(0), _ints(1))
        return ops.reduce_sum(ops.multiply(hidden, ops.unsqueeze(kept, _ints(2))), _ints([1]))

    def _heads(self) -> tuple[int, int]:
        heads = int(self._config["num_attention_heads"])
        return heads, int(self._config["hidden_size"]) // heads

    def _layer(self, number: int) -> Layer:
        name = f"encoder.layer.{number}."
        scale = np.float32(1 / np.sqrt(self._heads()[1]))
        query, key, value = (
            self._product(f"{number}.qkv", f"{name}attention.self.{part}") for part in ("query", "key", "value")
        )
        query = Product(query.key, query.weight * scale, query.bias * scale)
        return Layer(
            attention=(query, key, value),
            output=self._product(f"{number}.out", name + "attention.output.dense"),
            up=self._product(f"{number}.up", name + "intermediate.dense"),
            down=self._product(f"{number}.down", name + "output.dense"),
        )

    def _product(self, key: str, name: str) -> Product:
        return Product(key, self._weights[name + ".weight"], self._weights[name + ".bias"])


def quantised_weight(weight: Float32) -> tuple[npt.NDArray[np.int8], Float32]:
    """(n, k) float32 → int8 (n, k) and its scale (n, 1) float32: symmetric, one scale an output channel."""
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def _products(x: Any, products: tuple[Product, ...], plan: Plan, taps: dict[str, Any]) -> list[Any]:
    key = products[0].key
    taps[key] = x
    scale = plan.get(key)
    if scale is not None:
        low, high = _const(np.float32(scale.low)), _const(np.float32(scale.high))
        smoothed = ops.multiply(x, _const((1 / scale.smooth).reshape(1, 1, -1)))
        x = ops.fake_quantize(smoothed, low, high, low, high, 256)
    return [
        ops.add(ops.matmul(x, _weight(part.weight, scale), False, True), _const(part.bias.reshape(1, 1, -1)))
        for part in products
    ]


def _weight(weight: Float32, scale: InputScale | None) -> Any:
    if scale is None:
        return _const(weight)
    whole, step = quantised_weight(weight * scale.smooth)
    return ops.multiply(ops.convert(_const(whole), openvino.Type.f32), _const(step))


def _split(x: Any, heads: tuple[int, int], order: tuple[int, ...]) -> Any:
    return ops.transpose(ops.reshape(x, _ints([0, 0, *heads]), True), _ints(list(order)))


def _parameter(name: str) -> Any:
    node = ops.parameter([-1, -1], openvino.Type.i64, name=name)
    node.output(0).set_names({name})
    return node


def _const(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return ops.constant(array if array.ndim == 0 else np.ascontiguousarray(array))


def _ints(value: int | list[int]) -> Any:
    return _const(np.asarray(value, np.int64))


def _weights(folder: Path) -> dict[str, Float32]:
    found: dict[str, Float32] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                short = name.removeprefix("bert.").removeprefix("roberta.")
                found[short] = tensors.get_tensor(name).astype(np.float32)
    return found


def _dtypes(folder: Path) -> set[str]:
    kinds: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), "np") as tensors:
            names = [name for name in tensors.keys() if name.endswith(".weight")]  # noqa: SIM118 - not a mapping
            kinds.update(tensors.get_slice(name).get_dtype() for name in names)
    return kinds
