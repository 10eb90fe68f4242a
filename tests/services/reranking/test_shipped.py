"""The cross-encoders that ship, as this machine serves them, against transformers in fp32 with the same weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

from services.embedding.encoder import cpu_precision
from services.embedding.quantise import calibration_passages
from services.models import SHIPPED
from services.reranking.checkpoint import complete_folder, describe_cross_encoder
from services.reranking.cross_encoder import CrossEncoder, load_cross_encoder
from services.reranking.torch_engine import TorchPairs

QUESTIONS = (
    ("what does the str method split do", "S.split(sep=None, maxsplit=-1) returns a list of the words in the string."),
    ("how do I open a file in Python", "open(file, mode='r') opens a file and returns a stream; OSError on failure."),
    ("who was the first woman in space", "Valentina Tereshkova flew on Vostok 6 in June 1963, alone, for three days."),
    (
        "what causes tides",
        "The gravity of the Moon and of the Sun pulls the oceans; water rises on both sides of Earth.",
    ),
    ("boiling point of water at altitude", "At 3,000 metres the air pressure is lower and water boils at about 90 °C."),
)
Both = tuple[CrossEncoder, Callable[[list[tuple[str, str]]], np.ndarray]]


@pytest.fixture(scope="module", params=sorted(SHIPPED))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The served model and its oracle."""
    if not (SHIPPED[request.param] / "model.safetensors").is_file():
        pytest.skip(f"the weights of {request.param} are not in this checkout")
    home = tmp_path_factory.mktemp(request.param)
    served = load_cross_encoder(request.param, cache_dir=str(home), threads=2, device="cpu")
    return served, oracle(complete_folder(SHIPPED[request.param], home / "whole"))


def oracle(folder: Path) -> Callable[[list[tuple[str, str]]], np.ndarray]:
    model = BertForSequenceClassification.from_pretrained(str(folder)).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)

    def logits(pairs: list[tuple[str, str]]) -> np.ndarray:
        values = []
        for encoding in tokenizer.encode_batch(pairs):
            ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
            with torch.no_grad():
                values.append(float(model(ids, torch.ones_like(ids), types).logits))
        return np.array(values, np.float32)

    return logits


def unseen() -> list[tuple[str, str]]:
    """Pairs that the calibration did not see: other questions, and its passages against them."""
    passages = [passage for _, passage in QUESTIONS] + calibration_passages()[::4]
    return [(question, passage) for question, _ in QUESTIONS for passage in passages]


def scored(model: CrossEncoder, pairs: list[tuple[str, str]]) -> np.ndarray:
    ids = model.tokenizer.ids([text for pair in pairs for text in pair])
    return model.score(list(zip(ids[::2], ids[1::2], strict=True)))


def test_served_logits_are_those_of_fp32(both: Both) -> None:
    served, exact = both
    found, expected = scored(served, unseen()), exact(unseen())
    assert np.corrcoef(found, expected)[0, 1] >= 0.995
    assert np.abs(found - expected).mean() <= 0.1 * expected.std()


def test_int8_is_kept_where_it_is_native(both: Both) -> None:
    served, _ = both
    assert served.facts.dtype == "int8" or cpu_precision() == "float"


def test_torch_computes_the_same_model(both: Both) -> None:
    served, exact = both
    described = describe_cross_encoder(served.facts.reference)
    found = CrossEncoder(described, TorchPairs(described.folder.path, "cpu", None), trimmed=False)
    np.testing.assert_allclose(scored(found, unseen()[:10]), exact(unseen()[:10]), atol=2e-4)


def test_the_answer_stands_before_the_other_passages(both: Both) -> None:
    served, _ = both
    passages = [passage for _, passage in QUESTIONS]
    grid = scored(served, [(question, passage) for question, _ in QUESTIONS for passage in passages])
    assert (grid.reshape(len(QUESTIONS), -1).argmax(axis=1) == np.arange(len(QUESTIONS))).mean() >= 0.8


def test_company_does_not_change_the_bits(both: Both) -> None:
    served, _ = both
    pairs = unseen()
    together = scored(served, pairs)
    assert np.array_equal(scored(served, pairs[::-1])[::-1], together)
    assert np.array_equal(np.concatenate([scored(served, [pair]) for pair in pairs[::7]]), together[::7])


def test_facts_tell_the_shipped_sizes(both: Both) -> None:
    served, _ = both
    facts = served.facts
    assert facts.name.startswith(facts.reference + "@")
    assert facts.cost_tokens[-1] == 512
    assert list(facts.cost_ms) == sorted(facts.cost_ms)
