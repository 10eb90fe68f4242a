"""What the folder's JSON files say, and which ways of pooling are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.embedding.recipe import read_recipe
from services.models import BUILTIN, locate
from tenants.errors import InvalidInput

BERT = {"model_type": "bert", "hidden_size": 32, "max_position_embeddings": 512}


def folder(tmp_path: Path, config: dict[str, Any], **files: Any) -> Path:
    contents = {"config.json": config, **{name.replace("__", "/") + ".json": value for name, value in files.items()}}
    for name, value in contents.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), "utf-8")
    return tmp_path


def modules(*kinds: str) -> list[dict[str, str]]:
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    return [{"type": f"sentence_transformers.models.{kind}", "path": paths.get(kind, kind)} for kind in kinds]


def test_builtin() -> None:
    recipe = read_recipe(locate(BUILTIN).path)
    assert (recipe.pooling, recipe.dimension, recipe.max_tokens, recipe.architecture) == ("mean", 384, 256, "bert")


def test_plain_folder_gets_mean_pooling_over_its_positions(tmp_path: Path) -> None:
    recipe = read_recipe(folder(tmp_path, BERT))
    assert (recipe.pooling, recipe.max_tokens, recipe.query_prefix) == ("mean", 512, "")


def test_roberta_has_two_positions_less(tmp_path: Path) -> None:
    config = {"model_type": "xlm-roberta", "hidden_size": 32, "max_position_embeddings": 514}
    found = read_recipe(folder(tmp_path, config, sentence_bert_config={"max_seq_length": 514}))
    assert found.max_tokens == 512


def test_pooling_window_and_prompts_are_read(tmp_path: Path) -> None:
    recipe = read_recipe(
        folder(
            tmp_path,
            BERT,
            modules=modules("Transformer", "Pooling", "Normalize"),
            **{"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}},
            sentence_bert_config={"max_seq_length": 128},
            config_sentence_transformers={"prompts": {"query": "query: ", "document": "passage: "}},
        )
    )
    assert (recipe.pooling, recipe.max_tokens) == ("cls", 128)
    assert (recipe.query_prefix, recipe.document_prefix) == ("query: ", "passage: ")


def test_unknown_pooling_is_refused(tmp_path: Path) -> None:
    config = {"pooling_mode_mean_sqrt_len_tokens": True}
    with pytest.raises(InvalidInput, match="use mean or cls"):
        read_recipe(folder(tmp_path, BERT, modules=modules("Transformer", "Pooling"), **{"1_Pooling__config": config}))


def test_unknown_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Dense"):
        read_recipe(folder(tmp_path, BERT, modules=modules("Transformer", "Pooling", "Dense")))
