"""A folder that borrows the embedder's table is whole when it is read; what names no cross-encoder is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from services.models import BORROWS, BUILTIN, locate
from services.reranking.checkpoint import complete_folder, describe_cross_encoder, pair_tokenizer, read_checkpoint
from tenants.errors import InvalidInput, Unavailable

from .tiny import CONFIGS, save_tiny


@pytest.fixture(scope="module")
def borrowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training writes: one layer in float16, no tokenizer, no embeddings."""
    folder = tmp_path_factory.mktemp("borrowing")
    config = BertConfig.from_pretrained(str(locate(BUILTIN).path), num_labels=1, num_hidden_layers=1)
    torch.manual_seed(0)
    BertForSequenceClassification(config).half().save_pretrained(str(folder))
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("bert.embeddings.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    config_json = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config_json | {BORROWS: BUILTIN}))
    return folder


def test_borrowed_table_and_tokenizer_are_the_embedders(borrowing: Path) -> None:
    lender = load_file(locate(BUILTIN).path / "model.safetensors")
    checkpoint = read_checkpoint(borrowing)
    table = checkpoint.weights["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(table, lender["embeddings.word_embeddings.weight"])
    assert checkpoint.weights["classifier.weight"].dtype == np.float32
    assert checkpoint.tokenizer_json == (locate(BUILTIN).path / "tokenizer.json").read_text("utf-8")
    assert checkpoint.revision == locate(str(borrowing)).revision


def test_window_is_the_models_own_not_the_lenders(borrowing: Path) -> None:
    assert describe_cross_encoder(str(borrowing)).max_tokens == 512
    assert pair_tokenizer(str(borrowing)).max_tokens == 512


def test_completed_folder_is_plain_hugging_face(borrowing: Path, tmp_path: Path) -> None:
    whole = complete_folder(borrowing, tmp_path / "whole")
    model, report = AutoModelForSequenceClassification.from_pretrained(str(whole), output_loading_info=True)
    assert not report["missing_keys"]
    assert BORROWS not in json.loads((whole / "config.json").read_text())
    checkpoint = read_checkpoint(borrowing)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), checkpoint.weights[name])
    assert pair_tokenizer(str(whole)).digest == pair_tokenizer(str(borrowing)).digest


def test_plain_folder_is_copied_as_it_is(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "plain", CONFIGS["bert"])
    whole = complete_folder(folder, tmp_path / "copy")
    assert (whole / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert locate(str(whole)).revision == locate(str(folder)).revision


def test_revision_follows_the_weights_that_are_borrowed(borrowing: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("config.json", "model.safetensors"):
        (own / name).write_bytes((borrowing / name).read_bytes())
    assert locate(str(own)).revision == locate(str(borrowing)).revision
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name != BORROWS}))
    (own / "tokenizer.json").write_text(read_checkpoint(borrowing).tokenizer_json)
    assert locate(str(own)).revision != locate(str(borrowing)).revision


def test_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "three", BertConfig(**{**CONFIGS["bert"].to_dict(), "num_labels": 3}))
    with pytest.raises(InvalidInput, match="has 3 labels"):
        describe_cross_encoder(str(folder))


def test_embedder_is_no_cross_encoder() -> None:
    with pytest.raises(InvalidInput, match="a cross-encoder has one"):
        describe_cross_encoder(BUILTIN)


def test_shipped_model_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("services.models", fromlist=["SHIPPED"]).SHIPPED, "builtin-small", tmp_path)
    with pytest.raises(Unavailable, match="builtin-small are not in this installation"):
        locate("builtin-small")
