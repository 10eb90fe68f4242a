"""Cross-encoders as torch modules: from any Hugging Face encoder or cross-encoder, to a folder that is one.

The head is a single logit. Embeddings are frozen where they are the built-in embedder's: then the exported folder
leaves them out (`fathom_embeddings`, see `services/reranking/checkpoint.py`), and weights stay small.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from services.models import BORROWS, BUILTIN, locate
from services.reranking.checkpoint import TOKENIZER_FILES
from tenants.errors import InvalidInput


def load_network(folder: Path, device: torch.device) -> PreTrainedModel:
    """A network with one logit, float32, without dropout (its random numbers cost a CPU more than it gives).

    Eager attention on a CPU, where its backward pass is the fastest; on a GPU the fused kernels of `sdpa` are.
    """
    logging.set_verbosity_error()  # that the head is new is what is wanted
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=torch.float32,
            attn_implementation=attention_of(device),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            ignore_mismatched_sizes=True,
        ).to(device)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput.field("/base", f"{folder} is no encoder that transformers can load ({error})") from None


def attention_of(device: torch.device) -> str:
    """Which attention is fastest there."""
    return "sdpa" if device.type == "cuda" else "eager"


def layers_of(network: PreTrainedModel) -> int:
    """How many encoder layers it has."""
    return int(network.config.num_hidden_layers)


def bottom(layers: int, count: int) -> list[int]:
    """The first `count` of `layers` layer numbers: of all ways to drop layers, dropping the top ones hurts least.

    Sajjad et al.: "On the effect of dropping layers of pre-trained transformer models", 2023. Raises `InvalidInput`
    for more layers than there are.
    """
    if count > layers:
        raise InvalidInput.field("/layers", f"the base has {layers} layers, {count} cannot be kept")
    return list(range(count))


def thinned(network: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A copy with only these encoder layers (0-based), head and embeddings included: where a small model starts."""
    device = next(network.parameters()).device
    config = type(network.config).from_dict({**network.config.to_dict(), "num_hidden_layers": len(layers)})
    small = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention_of(device))
    stack = _layer_prefix(network)
    number = {f"{stack}{old}.": f"{stack}{new}." for new, old in enumerate(layers)}
    wanted = {}
    for name, value in network.state_dict().items():
        old = next((prefix for prefix in number if name.startswith(prefix)), None)
        if old is not None:
            wanted[number[old] + name[len(old) :]] = value
        elif not name.startswith(stack):
            wanted[name] = value
    small.load_state_dict(wanted)
    return small.to(device)


def freeze(network: PreTrainedModel, layers: int = 0) -> list[nn.Parameter]:
    """Freeze the embeddings and the first `layers` encoder layers; returns what still learns."""
    prefixes = tuple(f"{_layer_prefix(network)}{number}." for number in range(layers))
    for name, parameter in network.named_parameters():
        frozen = ".embeddings." in f".{name}" or (bool(prefixes) and name.startswith(prefixes))
        parameter.requires_grad_(not frozen)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def averaged(state: Mapping[str, Tensor], base: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 − share) · state + share · base, of the tensors that both have in one shape (Wortsman et al. 2022)."""
    return {
        name: torch.lerp(value, base[name], share)
        if name in base and base[name].shape == value.shape and value.is_floating_point()
        else value
        for name, value in state.items()
    }


def export(network: PreTrainedModel, lender: Path, target: Path, card: str) -> None:
    """Write the folder that `services.reranking` reads: config, float16 weights, card, and the tokenizer of `lender`.

    When that is the built-in embedder, its tokenizer and its embeddings (which stayed frozen) are named, not copied.
    """
    target.mkdir(parents=True, exist_ok=True)
    builtin = lender.resolve() == locate(BUILTIN).path.resolve()
    state = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in network.state_dict().items()
        if not (builtin and ".embeddings." in name)
    }
    weights = target / "model.safetensors"
    save_file(state, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors makes it the owner's alone
    config = network.config.to_dict() | {"architectures": [type(network).__name__], "dtype": "float16"}
    config.pop("_name_or_path", None)
    if builtin:
        config[BORROWS] = BUILTIN
    else:
        for name in TOKENIZER_FILES:
            if (lender / name).is_file():
                shutil.copyfile(lender / name, target / name)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n", "utf-8")
    (target / "README.md").write_text(card, "utf-8")


def _layer_prefix(network: PreTrainedModel) -> str:
    """What the encoder layers' names begin with: `bert.encoder.layer.`, `model.layers.`."""
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == network.config.num_hidden_layers:
            return f"{name}."
    raise InvalidInput.field("/base", f"{type(network).__name__} has no list of encoder layers")
