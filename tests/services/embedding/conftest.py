"""One built encoder for the room, plain transformers beside it, and tiny models of other architectures."""

import inspect
import json
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, PretrainedConfig

from services.embedding.encoder import Encoder, load_encoder
from services.models import BUILTIN, locate

Vectors = Callable[[Sequence[str]], np.ndarray]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def encoder(cache_dir: Path) -> Encoder:
    return load_encoder(BUILTIN, cache_dir=str(cache_dir), threads=2, device="cpu")


@pytest.fixture(scope="session")
def oracle() -> Vectors:
    """Plain transformers in fp32 with mean pooling, as the model's card shows it."""
    return reference(locate(BUILTIN).path, 256)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Prose that the calibration text does not hold: documentation of the running interpreter."""
    found = [
        inspect.getdoc(kind) for kind in (str, dict, list, Path, json.JSONDecoder, string.Template, inspect.Signature)
    ]
    found += [inspect.getdoc(item) for item in vars(str).values() if inspect.getdoc(item)]
    return [text for text in found if text and len(text) < 900][:32]  # inside the window: the oracle cuts


def reference(folder: Path, max_tokens: int) -> Vectors:
    model = AutoModel.from_pretrained(str(folder)).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)

    def vectors(texts: Sequence[str]) -> np.ndarray:
        return np.stack([_mean(model, tokenizer.encode(text).ids) for text in texts])

    return vectors


def _mean(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64))
    mean = hidden.last_hidden_state[0].mean(dim=0).numpy()
    return mean / np.linalg.norm(mean)


def save_tiny(folder: Path, config: PretrainedConfig) -> Path:
    """A model with random weights and a tokenizer of single letters: proves the computation, not the meaning."""
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(str(folder))
    vocabulary = {
        token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.ascii_lowercase])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
