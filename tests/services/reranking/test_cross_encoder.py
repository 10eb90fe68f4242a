"""Logits agree with transformers, whatever the engine; a pair's bits do not depend on what it is batched with."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.embedding.build import precision_of
from services.embedding.openvino_engine import OpenVinoEngine
from services.embedding.quantise import outputs
from services.reranking import cross_encoder as module
from services.reranking.checkpoint import describe_cross_encoder, pair_tokenizer, read_checkpoint
from services.reranking.compile import compile_folder
from services.reranking.cross_encoder import CrossEncoder, load_cross_encoder
from services.reranking.graph import INPUTS, PairGraph
from services.reranking.pairs import pair_batches
from services.reranking.torch_engine import TorchPairs
from tenants.errors import InvalidInput, Unavailable

from .tiny import CONFIGS, TEXTS, all_pairs, oracle, save_tiny

HOSTILE = ("", "\x00", "a\ud800b", "[SEP] [CLS]", "a b " * 50_000, "é" * 500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", CONFIGS["bert"])


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def model(folder: Path, cache_dir: str) -> CrossEncoder:
    """What a user of this machine gets."""
    return load_cross_encoder(str(folder), cache_dir=cache_dir, threads=2, device="cpu")


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_own_graph_is_transformers_model(name: str, tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "model", CONFIGS[name])
    tokenizer = pair_tokenizer(str(tiny))
    batches = pair_batches(tokenizer.windows(all_pairs(tokenizer)), budget_tokens=256, multiple=16, pad_id=0)
    logits = np.full(len(TEXTS) ** 2, np.nan, np.float32)
    fed = {tuple(batch.rows): dict(zip(INPUTS, batch.inputs, strict=True)) for batch in batches}
    for rows, found in zip(fed, outputs(PairGraph(read_checkpoint(tiny)).model(), list(fed.values())), strict=True):
        logits[list(rows)] = found[0][:, 0]
    np.testing.assert_allclose(logits, oracle(tiny), atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_float_engine_agrees_with_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = save_tiny(tmp_path / "model", CONFIGS[name])
    monkeypatch.setattr(module, "cpu_precision", lambda: "float")
    found = load_cross_encoder(str(tiny), cache_dir=str(tmp_path / "cache"), threads=2, device="cpu")
    logits = found.score(all_pairs(found.tokenizer))
    assert logits.dtype == np.float32
    assert np.corrcoef(logits, oracle(tiny))[0, 1] >= 0.99  # bf16 where it is native, and weights that are wild


@pytest.mark.parametrize("name", CONFIGS)
def test_torch_agrees_with_transformers(name: str, tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "model", CONFIGS[name])
    found = CrossEncoder(describe_cross_encoder(str(tiny)), TorchPairs(tiny, "cpu", None), trimmed=False)
    np.testing.assert_allclose(found.score(all_pairs(found.tokenizer)), oracle(tiny), atol=1e-4)


@pytest.mark.parametrize("name", ["modernbert", "distilbert"])
def test_architecture_that_the_graph_lacks_runs_on_torch(name: str, tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "model", CONFIGS[name])
    found = load_cross_encoder(str(tiny), cache_dir=str(tmp_path / "cache"), device="cpu")
    assert found.facts.dtype == "f32"
    np.testing.assert_allclose(found.score(all_pairs(found.tokenizer)), oracle(tiny), atol=1e-4)


def test_the_company_of_a_pair_does_not_change_its_bits(model: CrossEncoder) -> None:
    pairs = all_pairs(model.tokenizer)
    together = model.score(pairs)
    mixed = np.random.default_rng(0).permutation(len(pairs))
    assert np.array_equal(model.score([pairs[row] for row in mixed]), together[mixed])
    assert np.array_equal(np.concatenate([model.score([pair]) for pair in pairs]), together)
    assert np.array_equal(model.score(pairs * 40), np.tile(together, 40))


@pytest.mark.parametrize("name", ["modernbert", "distilbert"])
def test_nor_does_it_on_torch(name: str, tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "model", CONFIGS[name])
    found = CrossEncoder(describe_cross_encoder(str(tiny)), TorchPairs(tiny, "cpu", None), trimmed=False)
    pairs = all_pairs(found.tokenizer)
    assert np.array_equal(found.score(pairs[::-1])[::-1], found.score(pairs))
    assert np.array_equal(np.concatenate([found.score([pair]) for pair in pairs]), found.score(pairs))


def test_two_builds_give_the_same_bits(model: CrossEncoder, folder: Path, tmp_path: Path) -> None:
    other = load_cross_encoder(str(folder), cache_dir=str(tmp_path), threads=1, device="cpu")
    pairs = all_pairs(model.tokenizer)
    assert np.array_equal(other.score(pairs), model.score(pairs))


def test_threads_share_one_model(model: CrossEncoder) -> None:
    pairs = all_pairs(model.tokenizer)
    expected = model.score(pairs)
    with ThreadPoolExecutor(8) as pool:
        for logits in pool.map(lambda _: model.score(pairs), range(16)):
            assert np.array_equal(logits, expected)


def test_long_passage_scores_as_its_best_window(model: CrossEncoder) -> None:
    query, passage = model.tokenizer.ids(["a b c", " ".join(TEXTS * 10)])
    windows = model.tokenizer.windows([(query, passage)])
    parts = [
        (query, ids[first:-1].astype("<u4").tobytes()) for ids, first in zip(windows.ids, windows.first, strict=True)
    ]
    assert len(parts) > 3
    assert model.score([(query, passage)])[0] == model.score(parts).max()


def test_any_text_gets_a_finite_logit(model: CrossEncoder) -> None:
    pairs = all_pairs(model.tokenizer, HOSTILE)
    logits = model.score(pairs)
    assert logits.shape == (len(pairs),)
    assert np.isfinite(logits).all()


def test_no_pairs_give_no_logits(model: CrossEncoder) -> None:
    assert model.score([]).shape == (0,)


def test_facts_say_what_the_policy_needs(model: CrossEncoder, folder: Path) -> None:
    facts = model.facts
    assert facts.revision == read_checkpoint(folder).revision
    assert facts.tokenizer == model.tokenizer.digest
    assert facts.cost_tokens == (32, 64)
    assert len(facts.cost_ms) == len(facts.gflop) == 2
    assert 0 < facts.cost_ms[0] <= facts.cost_ms[1]
    assert facts.gflop[0] < facts.gflop[1] / 2


def test_int8_that_is_unfaithful_is_not_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.reranking.compile.MIN_CORRELATION", 1.1)
    facts = compile_folder(folder, tmp_path, "int8")
    graph = tmp_path / "encoder.xml"
    assert facts["precision"] == precision_of(graph) == "float"
    kept = CrossEncoder(describe_cross_encoder(str(folder)), OpenVinoEngine(graph, 1), trimmed=True)
    assert kept.facts.dtype in ("bf16", "f32")
    assert np.corrcoef(kept.score(all_pairs(kept.tokenizer)), oracle(folder))[0, 1] >= 0.99


def test_gpu_that_is_not_there_is_named(folder: Path, cache_dir: str) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Unavailable, match="set device to auto or cpu"):
        load_cross_encoder(str(folder), cache_dir=cache_dir, device="cuda")
    with pytest.raises(InvalidInput, match="choose auto, cpu or cuda"):
        load_cross_encoder(str(folder), cache_dir=cache_dir, device="tpu")
