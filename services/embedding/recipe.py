"""What a model folder says about turning text into one vector. Pure but for reading the folder's JSON files.

Follows the sentence-transformers layout (modules.json, 1_Pooling/config.json, sentence_bert_config.json,
config_sentence_transformers.json); a plain Hugging Face folder gets mean pooling and unit vectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenants.errors import InvalidInput

Pooling = Literal["mean", "cls", "lasttoken", "max"]

PLAIN_WINDOW_TOKENS = 512
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class Recipe:
    """`dimension` of the vectors, `max_tokens` of one window with its special tokens, text put before a query."""

    pooling: Pooling
    dimension: int
    max_tokens: int
    query_prefix: str = ""
    document_prefix: str = ""
    architecture: str = ""


def read_recipe(folder: Path) -> Recipe:
    """The recipe of `folder`; raises `InvalidInput` for a module or pooling that Fathom does not compute."""
    config = _json(folder / "config.json")
    modules = _modules(folder)
    pooling = _json(folder / modules["Pooling"] / "config.json") if "Pooling" in modules else {}
    prompts = _json(folder / "config_sentence_transformers.json").get("prompts") or {}
    return Recipe(
        pooling=_pooling(folder, pooling),
        dimension=_dimension(folder, config),
        max_tokens=_window(folder / modules.get("Transformer", ""), config),
        query_prefix=str(prompts.get("query", "")),
        document_prefix=str(prompts.get("document", prompts.get("passage", ""))),
        architecture=str(config.get("model_type", "")),
    )


def _dimension(folder: Path, config: Mapping[str, Any]) -> int:
    for name in ("hidden_size", "dim", "d_model"):  # BERT's name, DistilBERT's, T5's
        if name in config:
            return int(config[name])
    raise InvalidInput.field("/embedder", f"{folder.name}'s config.json names no hidden_size; is it an encoder?")


def _modules(folder: Path) -> dict[str, str]:
    listed = _json(folder / "modules.json", [])
    modules = {str(item["type"]).rsplit(".", 1)[-1]: str(item["path"]) for item in listed}
    foreign = sorted(set(modules) - set(_KNOWN_MODULES))
    if foreign:
        raise InvalidInput.field("/embedder", f"{folder.name} needs {', '.join(foreign)}, which is not supported")
    return modules


def _pooling(folder: Path, config: Mapping[str, Any]) -> Pooling:
    flags: dict[str, Pooling] = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_lasttoken": "lasttoken",
        "pooling_mode_max_tokens": "max",
    }
    named: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "lasttoken", "max": "max"}
    chosen = {mode for flag, mode in flags.items() if config.get(flag)}
    if config.get("pooling_mode") in named:
        chosen = {named[str(config["pooling_mode"])]}
    if len(chosen) > 1 or (config and not chosen):
        raise InvalidInput.field("/embedder", f"{folder.name} pools in a way that is not supported; use mean or cls")
    return chosen.pop() if chosen else "mean"


def _window(folder: Path, config: Mapping[str, Any]) -> int:
    positions = int(config.get("max_position_embeddings", PLAIN_WINDOW_TOKENS))
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # their position ids start after the padding index
    declared = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    return min(positions, int(declared or PLAIN_WINDOW_TOKENS))


def _json(path: Path, default: Any = None) -> Any:
    if not path.is_file():
        return {} if default is None else default
    return json.loads(path.read_text("utf-8"))
