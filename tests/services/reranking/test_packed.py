"""Many windows in one row give the logits of each alone, on a GPU too."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ModernBertConfig

from services.reranking.checkpoint import describe_cross_encoder, pair_tokenizer
from services.reranking.cross_encoder import CrossEncoder
from services.reranking.packed import PACKED, packs
from services.reranking.pairs import pair_batches
from services.reranking.torch_engine import TorchPairs

from .tiny import CONFIGS, TEXTS, all_pairs, oracle, save_tiny


@pytest.mark.parametrize("name", [name for name in CONFIGS if packs(name)])
def test_windows_of_several_widths_share_a_row(name: str, tmp_path: Path) -> None:
    agree(save_tiny(tmp_path / "model", CONFIGS[name]))


def test_mean_pooling_keeps_to_its_window(tmp_path: Path) -> None:
    config = CONFIGS["modernbert"].to_dict() | {"classifier_pooling": "mean"}
    agree(save_tiny(tmp_path / "model", ModernBertConfig(**config)))


def agree(folder: Path) -> None:
    tokenizer = pair_tokenizer(str(folder))
    group = list(pair_batches(tokenizer.windows(all_pairs(tokenizer)), budget_tokens=128, multiple=16, pad_id=0))
    assert len({batch.ids.shape[1] for batch in group}) > 1
    engine = TorchPairs(folder, "cpu", None)
    with torch.inference_mode():
        found = engine._model.logits(group, torch.device("cpu")).numpy().reshape(-1)
    logits = np.empty_like(found)
    logits[np.concatenate([batch.rows for batch in group])] = found
    np.testing.assert_allclose(logits, oracle(folder), atol=1e-4)


def test_architectures_that_cannot_be_packed_are_known() -> None:
    assert "bert" in PACKED
    assert not packs("distilbert")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_gpu_agrees_with_transformers(name: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    folder = save_tiny(tmp_path / "model", CONFIGS[name])
    found = CrossEncoder(describe_cross_encoder(str(folder)), TorchPairs(folder, "cuda", None), trimmed=False)
    pairs = all_pairs(found.tokenizer)
    assert len(pairs) == len(TEXTS) ** 2
    assert np.corrcoef(found.score(pairs), oracle(folder))[0, 1] >= 0.99
