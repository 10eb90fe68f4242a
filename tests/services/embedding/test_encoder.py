"""What the built-in embedder promises: faithful to fp32, nothing cut, unit rows, the same answer every time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.embedding.encoder import Encoder, cpu_precision, describe_encoder, load_encoder
from services.models import BUILTIN

from .conftest import Vectors

HOSTILE = (
    "",
    " \n\t ",
    "\x00\x01\x02",
    "a\ud800b",
    "\u202eright to left\u202c",
    "e" + "\u0301" * 500,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50,
    "[CLS] [SEP] [PAD] [MASK]",
    "x" * 100_000,
    "日本語のテキスト 中文 العربية",
)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.sum(left * right, axis=1)


def test_vectors_agree_with_transformers_in_fp32(encoder: Encoder, oracle: Vectors, texts: list[str]) -> None:
    found = cosines(encoder.encode(texts), oracle(texts))
    assert found.mean() >= 0.995
    assert found.min() >= 0.98


def test_order_of_neighbours_is_that_of_fp32(encoder: Encoder, oracle: Vectors) -> None:
    passages = [
        "Paris is the capital of France.",
        "Berlin is the capital of Germany.",
        "A pointer holds the address of a value in memory.",
        "Insulin lowers the level of sugar in the blood.",
    ]
    questions = ["What is France's capital?", "which hormone reduces blood glucose", "C pointers explained"]
    ours = encoder.encode(questions) @ encoder.encode(passages).T
    theirs = oracle(questions) @ oracle(passages).T
    assert ours.argmax(axis=1).tolist() == theirs.argmax(axis=1).tolist() == [0, 3, 2]
    assert np.abs(ours - theirs).max() <= 0.03


def test_long_text_is_the_token_weighted_mean_of_its_windows(encoder: Encoder) -> None:
    words = ["cat", "dog", "river", "stone", "music"] * 120  # one token each
    room = encoder.max_tokens - 2
    parts = [words[start : start + room] for start in range(0, len(words), room)]
    vectors = encoder.encode([" ".join(part) for part in parts])
    weights = np.array([len(part) + 2 for part in parts])
    expected = (vectors * weights[:, None]).sum(axis=0)
    expected /= np.linalg.norm(expected)
    found = encoder.encode([" ".join(words)])[0]
    assert len(parts) == 3
    assert float(found @ expected) >= 0.9999


def test_the_end_of_a_long_text_counts(encoder: Encoder) -> None:
    start = "The committee met and approved the minutes. " * 60
    plain, with_end = encoder.encode([start, start + "Volcanoes erupt when magma rises through the crust. " * 60])
    question = encoder.encode(["why do volcanoes erupt"])[0]
    assert float(question @ with_end) > float(question @ plain) + 0.1


def test_any_text_gives_a_unit_row(encoder: Encoder) -> None:
    vectors = encoder.encode(HOSTILE)
    assert vectors.shape == (len(HOSTILE), encoder.dimension)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_no_texts_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dimension)


def test_row_does_not_depend_on_its_neighbours(encoder: Encoder, texts: list[str]) -> None:
    together = encoder.encode(texts)
    backwards = encoder.encode(texts[::-1])[::-1]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert cosines(together, backwards).min() >= 0.9995
    assert cosines(together, alone).min() >= 0.998
    assert cosines(together, alone).mean() >= 0.9995


def test_the_same_batch_gives_the_same_bits(encoder: Encoder, texts: list[str]) -> None:
    assert np.array_equal(encoder.encode(texts), encoder.encode(texts))


def test_two_builds_give_the_same_vectors(encoder: Encoder, texts: list[str], tmp_path: Path) -> None:
    other = load_encoder(BUILTIN, cache_dir=str(tmp_path), threads=2, device="cpu")
    assert other.fingerprint == encoder.fingerprint
    assert np.array_equal(other.encode(texts), encoder.encode(texts))


def test_threads_share_one_encoder(encoder: Encoder, texts: list[str]) -> None:
    expected = [encoder.encode(texts[start::8]) for start in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: encoder.encode(texts[start::8]), [*range(8)] * 2))
    for place, vectors in enumerate(found):
        assert np.array_equal(vectors, expected[place % 8])


def test_describe_knows_the_model_without_compiling(encoder: Encoder, tmp_path: Path) -> None:
    info = describe_encoder(BUILTIN)
    assert (info.dimension, info.max_tokens, info.fingerprint) == (384, 256, encoder.fingerprint)
    assert info.tokenizer_json == encoder.tokenizer_json


def test_second_load_reads_the_built_graph(encoder: Encoder, cache_dir: Path) -> None:
    graphs = {path: path.stat().st_mtime_ns for path in cache_dir.rglob("encoder.xml")}
    load_encoder(BUILTIN, cache_dir=str(cache_dir), threads=1, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in cache_dir.rglob("encoder.xml")} == graphs


def test_processor_without_int8_computes_in_float(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx2\n")
    new.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n")
    assert cpu_precision(old) == "float"
    assert cpu_precision(new) == "int8"
    assert cpu_precision(tmp_path / "missing") == "float"


class Mismatched:
    """A batch whose inputs do not fit each other."""

    rows = np.array([0])
    inputs = (np.zeros((1, 16), np.int64), np.zeros((1, 8), np.int64))


def test_batches_that_fail_use_up_no_request(encoder: Encoder) -> None:
    before = encoder.encode(["the same text"])
    for _ in range(20):  # more than the engine has requests
        with pytest.raises(RuntimeError):
            encoder._engine.run([Mismatched()], np.zeros((1, encoder.dimension), np.float32))
    assert np.array_equal(encoder.encode(["the same text"]), before)
