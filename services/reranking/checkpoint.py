"""A cross-encoder's folder as read from disk: configuration, tokenizer, float32 weights and what names them.

The folder is Hugging Face's (`…ForSequenceClassification` with one label); one that borrows the embedding table and
the tokenizer of the built-in embedder (see `services.models`) is made whole here. Needs no framework.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from services.embedding.bert import FIRST_POSITION
from services.models import BORROWS, ModelFolder, locate, revision_of, tokenizer_folder
from services.reranking.pairs import PairTokenizer
from tenants.errors import InvalidInput

Float32 = npt.NDArray[np.float32]

EMBEDDINGS = "bert.embeddings."
MAX_WINDOW_TOKENS = 512  # also of models that could read more: attention's cost grows with the square
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`weights` by the folder's own tensor names, float32; `revision` names everything that decides a logit, hex."""

    config: Mapping[str, Any]
    tokenizer_json: str
    weights: Mapping[str, Float32]
    revision: str


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a cross-encoder without reading its weights; `max_tokens` is one window's length."""

    reference: str
    folder: ModelFolder
    config: Mapping[str, Any]
    tokenizer_json: str
    max_tokens: int


@lru_cache(maxsize=32)
def describe_cross_encoder(reference: str, *, registry: str | None = None) -> Description:
    """Find the model; compiles nothing. Raises as `services.models.locate`, and `InvalidInput` for several labels.

    Answers from memory after the first call: give a `services.models.pinned` reference where an alias may move.
    """
    folder = locate(reference, registry=registry)
    config = _config(folder.path)
    labels = config.get("num_labels") or len(config.get("id2label") or {"0": "", "1": ""})
    if labels != 1:
        raise InvalidInput.field("/reranker", f"{reference} has {labels} labels; a cross-encoder has one, relevance")
    tokenizer = (tokenizer_folder(folder.path) / "tokenizer.json").read_text("utf-8")
    return Description(reference, folder, config, tokenizer, window_tokens(folder.path, config))


@lru_cache(maxsize=32)
def pair_tokenizer(reference: str, *, registry: str | None = None) -> PairTokenizer:
    """The tokenizer of a cross-encoder, without its weights. Raises as `describe_cross_encoder`."""
    described = describe_cross_encoder(reference, registry=registry)
    return PairTokenizer(described.tokenizer_json, described.max_tokens)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Everything of `folder`, a borrowed embedding table included. Raises `InvalidInput` without safetensors."""
    return Checkpoint(
        config=_config(folder),
        tokenizer_json=(tokenizer_folder(folder) / "tokenizer.json").read_text("utf-8"),
        weights=dict(_weights(folder)),
        revision=revision_of(folder),
    )


def complete_folder(folder: Path, target: Path) -> Path:
    """Write `folder` to `target` (made if missing) as a plain Hugging Face folder; what was borrowed, as float32."""
    lender = tokenizer_folder(folder)
    if lender == folder:
        return Path(shutil.copytree(folder, target, dirs_exist_ok=True))
    checkpoint = read_checkpoint(folder)
    target.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in checkpoint.config.items() if name != BORROWS}
    (target / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2), "utf-8")
    save_file(dict(checkpoint.weights), target / "model.safetensors", metadata={"format": "pt"})
    for source in [lender / name for name in TOKENIZER_FILES] + [folder / "README.md"]:
        if source.is_file():
            shutil.copyfile(source, target / source.name)
    return target


def window_tokens(folder: Path, config: Mapping[str, Any]) -> int:
    """Tokens of one window: what the positions, the tokenizer's own limit and `MAX_WINDOW_TOKENS` allow."""
    positions = int(config.get("max_position_embeddings", MAX_WINDOW_TOKENS))
    positions -= FIRST_POSITION.get(config.get("model_type", ""), 0)
    tokenizer_config = folder / "tokenizer_config.json"  # a borrowed tokenizer's limit is its lender's, not ours
    declared = json.loads(tokenizer_config.read_text("utf-8")) if tokenizer_config.is_file() else {}
    return min(positions, MAX_WINDOW_TOKENS, int(declared.get("model_max_length") or MAX_WINDOW_TOKENS))


def _config(folder: Path) -> Mapping[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def _weights(folder: Path) -> Iterator[tuple[str, Float32]]:
    yield from _tensors(folder)
    lender = tokenizer_folder(folder)
    if lender != folder:
        for name, value in _tensors(lender):
            if name.startswith("embeddings.") and not name.endswith("position_ids"):
                yield EMBEDDINGS + name.removeprefix("embeddings."), value


def _tensors(folder: Path) -> Iterator[tuple[str, Float32]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                yield name, tensors.get_tensor(name).astype(np.float32)
