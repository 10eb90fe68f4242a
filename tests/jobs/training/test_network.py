"""Networks: layers kept, weights averaged, folders that others read."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from jobs.training.network import averaged, bottom, export, freeze, layers_of, load_network, thinned
from services.models import BUILTIN, locate, tokenizer_folder
from services.reranking.checkpoint import complete_folder, read_checkpoint
from tenants.errors import InvalidInput

CPU = torch.device("cpu")


def test_kept_layers_are_the_originals(network):
    small = thinned(network, [1])
    assert layers_of(small) == 1
    kept, original = small.state_dict(), network.state_dict()
    name = "bert.encoder.layer.{}.attention.self.query.weight"
    assert torch.equal(kept[name.format(0)], original[name.format(1)])
    assert torch.equal(kept["classifier.weight"], original["classifier.weight"])


def test_the_first_layers_are_kept():
    assert bottom(6, 2) == [0, 1]
    assert bottom(4, 4) == [0, 1, 2, 3]


def test_more_layers_than_there_are_is_an_error():
    with pytest.raises(InvalidInput, match="6 layers"):
        bottom(6, 7)


def test_frozen_layers_do_not_learn(network):
    learning = freeze(network, 1)
    frozen = {name for name, one in network.named_parameters() if not one.requires_grad}
    assert all(".embeddings." in name or ".layer.0." in name for name in frozen)
    assert len(learning) + len(frozen) == len(list(network.parameters()))


def test_averaging_moves_shared_weights_and_keeps_others():
    state = {"a": torch.ones(2), "head": torch.ones(3), "count": torch.tensor(5)}
    base = {"a": torch.zeros(2), "head": torch.zeros(2)}
    mixed = averaged(state, base, 0.25)
    assert mixed["a"].tolist() == [0.75, 0.75]
    assert mixed["head"].tolist() == [1.0, 1.0, 1.0]
    assert int(mixed["count"]) == 5


def test_export_with_an_own_tokenizer_is_a_whole_folder(network, tiny_base, tmp_path):
    export(network, tiny_base, tmp_path / "out", "# card\n")
    again = load_network(tmp_path / "out", CPU)
    for name, value in network.state_dict().items():
        np.testing.assert_allclose(again.state_dict()[name].numpy(), value.numpy(), atol=1e-3)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_export_of_the_builtin_borrows_its_embeddings(tmp_path):
    lender = locate(BUILTIN).path
    config = BertConfig.from_pretrained(lender, num_hidden_layers=1, num_labels=1)
    network = BertForSequenceClassification(config)
    network.bert.load_state_dict(load_network(lender, CPU).bert.state_dict(), strict=False)
    folder = tmp_path / "out"
    export(network, lender, folder, "# card\n")
    assert tokenizer_folder(folder) == lender
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    weights = read_checkpoint(folder).weights
    assert set(weights) == set(network.state_dict())
    whole = load_network(complete_folder(folder, tmp_path / "whole"), CPU)
    for name, value in network.state_dict().items():
        np.testing.assert_allclose(whole.state_dict()[name].numpy(), value.numpy(), atol=1e-3)


def test_what_is_no_encoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(InvalidInput, match="no encoder that transformers can load"):
        load_network(tmp_path, CPU)
