"""BERT's and RoBERTa's weights → OpenVINO graphs: `BertGraph` reads a text and gives its unit vector.

Needs neither torch nor transformers. With a plan, the products named in it run on int8; all else stays float. What
a graph makes of the last layer is a subclass's: the cross-encoders' is `services/reranking/graph.py`.

Input  input_ids (b, length) int64, attention_mask (b, length) int64, 1 = token, padding on the right.
Output vector (b, d) float32 unit rows. Layer (Devlin et al. 2018, post-norm): x ← LN(x + O·softmax(QKᵀ/√h)V),
x ← LN(x + D·gelu(U·x)). Mean pooling is Σ mask·x; the division by Σ mask falls to the normalisation.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino.opset15 as ops
from safetensors import safe_open

from services.embedding.native import openvino
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
    return recipe.pooling in ("mean", "cls") and has_trunk(folder)


def has_trunk(folder: Path) -> bool:
    """Whether `BertTrunk` knows the folder's architecture and number types."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return (
        config.get("model_type") in FIRST_POSITION
        and config.get("hidden_act") in ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
        and all(kind in ("F32", "F16") for kind in _dtypes(folder))
    )


class BertTrunk(ABC):
    """Embeddings and layers; a subclass says what the inputs are and what is read out of the last hidden states.

    `config` is the folder's config.json; `weights` are float32 by their names without `bert.` or `roberta.`.
    """

    inputs: tuple[str, ...] = ("input_ids", "attention_mask")

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        self._config = config
        self._weights = weights
        self.layers = tuple(self._layer(number) for number in range(config["num_hidden_layers"]))

    def model(self, plan: Plan | None = None) -> Any:
        """The `openvino.Model` with one output."""
        return self._connected(plan or {})[0]

    def tapped(self) -> tuple[Any, tuple[str, ...]]:
        """The float model that also gives every product's input (b, length, k), and those inputs' keys in order."""
        model, taps = self._connected({})
        model.add_outputs([node.output(0) for node in taps.values()])
        return model, tuple(taps)

    @abstractmethod
    def _placed(self, inputs: Mapping[str, Any]) -> Any:
        """The embeddings of positions and token types, (1 or b, length, d)."""

    @abstractmethod
    def _read_out(self, hidden: Any, kept: Any) -> Any:
        """The named output; `kept` (b, length) float is 1 for a token."""

    def _connected(self, plan: Plan) -> tuple[Any, dict[str, Any]]:
        inputs = {name: _parameter(name) for name in self.inputs}
        kept = ops.convert(inputs["attention_mask"], openvino.Type.f32)
        penalty = ops.multiply(ops.subtract(kept, const(np.float32(1))), const(np.float32(MASKED)))
        penalty = ops.unsqueeze(penalty, ints([1, 2]))
        taps: dict[str, Any] = {}
        hidden = self._embedded(inputs)
        for number in range(len(self.layers)):
            hidden = self._through(number, hidden, penalty, plan, taps)
        output = ops.result(self._read_out(hidden, kept))
        return openvino.Model([output], list(inputs.values()), "encoder"), taps

    def _embedded(self, inputs: Mapping[str, Any]) -> Any:
        words = ops.gather(const(self._weights["embeddings.word_embeddings.weight"]), inputs["input_ids"], ints(0))
        return self._normed(ops.add(words, self._placed(inputs)), "embeddings.LayerNorm")

    def _places(self, token_type: int) -> Float32:
        """(positions, d): what a token of this type gets by its place."""
        first = FIRST_POSITION[self._config["model_type"]]
        places = self._weights["embeddings.position_embeddings.weight"][first:]
        placed: Float32 = places + self._weights["embeddings.token_type_embeddings.weight"][token_type]
        return placed

    def _through(self, number: int, x: Any, penalty: Any, plan: Plan, taps: dict[str, Any]) -> Any:
        layer, name = self.layers[number], f"encoder.layer.{number}."
        heads = self._heads()
        asking = self._asking(number, x)
        query, key, value = _attended(asking, x, layer.attention, plan, taps)
        scores = ops.matmul(_split(query, heads, (0, 2, 1, 3)), _split(key, heads, (0, 2, 3, 1)), False, False)
        shares = ops.softmax(ops.add(scores, penalty), -1)
        context = ops.matmul(shares, _split(value, heads, (0, 2, 1, 3)), False, False)
        context = ops.reshape(ops.transpose(context, ints([0, 2, 1, 3])), ints([0, 0, heads[0] * heads[1]]), True)
        (attended,) = _products(context, (layer.output,), plan, taps)
        x = self._normed(ops.add(attended, asking), name + "attention.output.LayerNorm")
        (wide,) = _products(x, (layer.up,), plan, taps)
        wide = ops.gelu(wide, ACTIVATIONS[self._config["hidden_act"]])
        (narrow,) = _products(wide, (layer.down,), plan, taps)
        return self._normed(ops.add(narrow, x), name + "output.LayerNorm")

    def _asking(self, number: int, x: Any) -> Any:
        """The rows of `x` (b, length, d) that layer `number` computes; all of them attend to all."""
        return x

    def _normed(self, x: Any, name: str) -> Any:
        centred = ops.mvn(x, ints([-1]), True, float(self._config["layer_norm_eps"]), "inside_sqrt")
        scaled = ops.multiply(centred, const(self._weights[name + ".weight"]))
        return ops.add(scaled, const(self._weights[name + ".bias"]))

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


class BertGraph(BertTrunk):
    """An embedder's folder: every token of type 0, and the hidden states pooled to one unit vector."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        super().__init__(config, read_weights(folder))
        self._recipe = recipe

    def _placed(self, inputs: Mapping[str, Any]) -> Any:
        return ops.unsqueeze(up_to_length(const(self._places(0)), inputs["input_ids"]), ints(0))

    def _read_out(self, hidden: Any, kept: Any) -> Any:
        vector = ops.normalize_l2(self._pooled(hidden, kept), ints([1]), NORM_FLOOR**2, "max")
        vector.output(0).set_names({"vector"})
        return vector

    def _pooled(self, hidden: Any, kept: Any) -> Any:
        if self._recipe.pooling == "cls":
            return ops.gather(hidden, ints(0), ints(1))
        return ops.reduce_sum(ops.multiply(hidden, ops.unsqueeze(kept, ints(2))), ints([1]))


def quantised_weight(weight: Float32) -> tuple[npt.NDArray[np.int8], Float32]:
    """(n, k) float32 → int8 (n, k) and its scale (n, 1) float32: symmetric, one scale an output channel."""
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def up_to_length(table: Any, ids: Any) -> Any:
    """The first rows of `table`, as many as `ids` (b, length) is long."""
    length = ops.gather(ops.shape_of(ids), ints([1]), ints(0))
    return ops.slice(table, ints([0]), length, ints([1]), ints([0]))


def _attended(asking: Any, x: Any, parts: tuple[Product, Product, Product], plan: Plan, taps: dict[str, Any]) -> Any:
    """Query of `asking`, key and value of `x`; in int8 the two share one scale."""
    if asking is x:
        return _products(x, parts, plan, taps)
    (query,) = _products(asking, parts[:1], plan, taps)
    return (query, *_products(x, parts[1:], plan, taps))


def _products(x: Any, products: tuple[Product, ...], plan: Plan, taps: dict[str, Any]) -> list[Any]:
    key = products[0].key
    taps[key] = x
    scale = plan.get(key)
    if scale is not None:
        low, high = const(np.float32(scale.low)), const(np.float32(scale.high))
        smoothed = ops.multiply(x, const((1 / scale.smooth).reshape(1, 1, -1)))
        x = ops.fake_quantize(smoothed, low, high, low, high, 256)
    return [
        ops.add(ops.matmul(x, _weight(part.weight, scale), False, True), const(part.bias.reshape(1, 1, -1)))
        for part in products
    ]


def _weight(weight: Float32, scale: InputScale | None) -> Any:
    if scale is None:
        return const(weight)
    whole, step = quantised_weight(weight * scale.smooth)
    return ops.multiply(ops.convert(const(whole), openvino.Type.f32), const(step))


def _split(x: Any, heads: tuple[int, int], order: tuple[int, ...]) -> Any:
    return ops.transpose(ops.reshape(x, ints([0, 0, *heads]), True), ints(list(order)))


def _parameter(name: str) -> Any:
    node = ops.parameter([-1, -1], openvino.Type.i64, name=name)
    node.output(0).set_names({name})
    return node


def const(value: Any) -> Any:
    """A constant; float64 becomes float32."""
    array = np.asarray(value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return ops.constant(array if array.ndim == 0 else np.ascontiguousarray(array))


def ints(value: int | list[int]) -> Any:
    """An int64 constant."""
    return const(np.asarray(value, np.int64))


def read_weights(folder: Path) -> dict[str, Float32]:
    """Every tensor of `folder`'s safetensors files as float32, by its name without `bert.` or `roberta.`."""
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
