"""Graphs of other architectures agree with transformers; builds are atomic, shared and honest about failure."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from transformers import BertConfig, DistilBertConfig, RobertaConfig

from services.embedding.build import graph_path
from services.embedding.encoder import Encoder, describe_encoder, load_encoder
from services.embedding.recipe import read_recipe
from services.embedding.torch_engine import TorchEngine
from services.models import locate
from tenants.errors import InvalidInput, Unavailable

from .conftest import reference, save_tiny

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 32}
TINY = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES, max_position_embeddings=66, pad_token_id=1),
    "distilbert": DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=32),
}
TEXTS = ["a b c", "q u i c k b r o w n", "z", "a b c d e f g h i j k l m n o p q r s t"]


@pytest.mark.parametrize("name", TINY)
def test_architecture_agrees_with_transformers(name: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", TINY[name])
    encoder = load_encoder(str(folder), cache_dir=str(tmp_path / "cache"), threads=2, device="cpu")
    cosines = np.sum(encoder.encode(TEXTS) * reference(folder, encoder.max_tokens)(TEXTS), axis=1)
    assert cosines.min() >= 0.995


def test_torch_engine_agrees_with_transformers(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", TINY["bert"])
    info = describe_encoder(str(folder))
    encoder = Encoder(info, TorchEngine(folder, info.recipe, "cpu", None))
    np.testing.assert_allclose(encoder.encode(TEXTS), reference(folder, 64)(TEXTS), atol=1e-5)


def test_processes_that_start_at_once_build_once(tmp_path: Path) -> None:
    folder = locate(str(save_tiny(tmp_path / "model", TINY["bert"])))
    recipe = read_recipe(folder.path)
    with ThreadPoolExecutor(4) as pool:
        graphs = list(pool.map(lambda _: graph_path(folder, recipe, "float", tmp_path / "cache"), range(4)))
    assert len(set(graphs)) == 1
    assert [path.name for path in (tmp_path / "cache" / "encoders").iterdir() if path.is_dir()] == [
        graphs[0].parent.name
    ]


def test_failed_build_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", TINY["bert"])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(Unavailable, match="could not be built"):
        load_encoder(str(folder), cache_dir=str(tmp_path / "cache"), threads=1, device="cpu")
    assert not [path for path in (tmp_path / "cache" / "encoders").iterdir() if path.is_dir()]


def test_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    first = describe_encoder(str(save_tiny(tmp_path / "one", TINY["bert"]))).fingerprint
    again = describe_encoder(str(save_tiny(tmp_path / "two", TINY["bert"]))).fingerprint
    other = describe_encoder(
        str(save_tiny(tmp_path / "three", BertConfig(**{**SIZES, "num_hidden_layers": 1})))
    ).fingerprint
    assert first == again != other


def test_gpu_that_is_not_there_is_named(encoder: Encoder, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Unavailable, match="set device to auto or cpu"):
        load_encoder("builtin", cache_dir=str(tmp_path), device="cuda")
    with pytest.raises(InvalidInput, match="choose auto, cpu or cuda"):
        load_encoder("builtin", cache_dir=str(tmp_path), device="tpu")
