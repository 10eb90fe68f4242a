"""Token ids beside the chunks: whose they are, how older tables get them, and that nothing breaks without them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jobs.indexing.pair_ids import pair_tokenizer
from services.models import BUILTIN, locate
from services.reranking.pairs import PairTokenizer
from services.retrieval.rows import columns_of, passages_of
from tenants.config import Rerankers
from tenants.corpus import release as releases
from tenants.corpus.table import has_token_ids, open_latest, open_release, stand_on, table_uri
from tenants.scope import TOKENIZER


def reranker(folder: Path, *, cased: bool = False) -> str:
    """A cross-encoder's folder with the built-in embedder's tokenizer, or one whose ids differ; no usable weights."""
    folder.mkdir()
    tokenizer = json.loads((locate(BUILTIN).path / "tokenizer.json").read_text("utf-8"))
    tokenizer["normalizer"]["lowercase"] = not cased
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "num_labels": 1}), "utf-8")
    save_file({"nothing": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def two(bench, tmp_path):
    """The bench with a cross-encoder, and the reference of another that reads capitals."""
    set_reranker(bench, reranker(tmp_path / "lower"))
    return bench, reranker(tmp_path / "cased", cased=True)


def set_reranker(bench, reference: str) -> None:
    config = bench.scope.config.model_copy(update={"rerankers": Rerankers(large=reference)})
    bench.scope = replace(bench.scope, config=config)


def tokenizer_of(bench) -> PairTokenizer:
    found = pair_tokenizer(bench.scope.config.rerankers.large)
    assert found is not None
    return found


def forget_the_column(bench) -> None:
    """Turn the published version into one of a Fathom that did not know token ids."""
    with_lease = releases.current(bench.scope)
    dataset = open_release(bench.scope, with_lease)
    dataset.drop_columns(["token_ids"])
    from tenants.corpus.lease import acquire

    profile = {name: value for name, value in with_lease.profile.items() if name != TOKENIZER}
    with acquire(bench.scope, "an older version") as lease:
        old = replace(with_lease, lance_version=dataset.version, profile=profile)
        releases.publish(bench.scope, old, lease)


def check_ids(bench) -> None:
    tokenizer = tokenizer_of(bench)
    assert releases.current(bench.scope).profile[TOKENIZER] == tokenizer.digest
    rows = bench.rows()
    assert rows
    assert [row["token_ids"] for row in rows] == tokenizer.ids([row["lexical"] for row in rows])


def test_a_job_stores_the_ids_of_the_large_cross_encoder(two):
    bench, _ = two
    bench.index(bench.write("a.jsonl", {"x": "A Whole Sentence about harbours.", "y": "naïve [SEP] text ﬁn"}))
    check_ids(bench)
    first = next(row for row in bench.rows() if row["document_id"] == "x")["token_ids"]
    assert np.frombuffer(first, "<u4").tolist()[0] == 1037  # "a" in BERT's vocabulary: no [CLS] before it


def test_a_small_batch_stores_them_too(two):
    bench, _ = two
    bench.writer().index_documents(bench.scope, [{"id": "x", "text": "Small Words"}])
    check_ids(bench)
    bench.writer().index_documents(bench.scope, [{"id": "y", "text": "More Words"}])
    check_ids(bench)


def test_a_cross_encoder_that_is_not_there_costs_the_ids_and_nothing_else(bench, tmp_path):
    set_reranker(bench, str(tmp_path / "nowhere"))
    bench.index(bench.write("a.jsonl", {"x": "some text"}))
    assert [row["token_ids"] for row in bench.rows()] == [None]
    assert releases.current(bench.scope).profile[TOKENIZER] == ""


def test_the_next_job_gives_an_older_table_its_ids_without_embedding(two):
    bench, _ = two
    source = bench.write("a.jsonl", {name: f"document number {name}" for name in "abcdef"})
    bench.index(source)
    bench.writer().delete_documents(bench.scope, ["b"])  # deleted rows must not shift the others' ids
    forget_the_column(bench)
    calls = bench.embed.calls
    assert "token_ids" not in bench.rows()[0]
    result = bench.index(bench.write("b.jsonl", {"new": "one more"}))
    assert result.counts.new == 1
    assert bench.embed.calls == calls + 1
    assert len(bench.rows()) == 6
    check_ids(bench)


def test_a_job_without_any_change_migrates_once(two):
    bench, _ = two
    source = bench.write("a.jsonl", {"x": "some text"})
    bench.index(source)
    forget_the_column(bench)
    before = releases.current(bench.scope).version
    assert bench.index(source).index_version == before + 1
    check_ids(bench)
    assert bench.index(source).index_version == before + 1


def test_small_batches_and_deletions_work_on_an_older_table(two):
    bench, _ = two
    bench.index(bench.write("a.jsonl", {"x": "some text", "gone": "other text"}))
    forget_the_column(bench)
    bench.writer().delete_documents(bench.scope, ["gone"])
    bench.writer().index_documents(bench.scope, [{"id": "y", "text": "More Words"}])
    assert bench.texts() == {"x": "some text", "y": "More Words"}
    assert releases.current(bench.scope).profile[TOKENIZER] == ""  # not every row has them: nobody may trust them


def test_a_changed_cross_encoder_migrates_every_row(two):
    bench, cased = two
    source = bench.write("a.jsonl", {"x": "Capital Letters", "y": "small ones"})
    bench.index(source)
    before = bench.rows()[0]["token_ids"]
    set_reranker(bench, cased)
    bench.writer().index_documents(bench.scope, [{"id": "z", "text": "In Between"}])
    assert releases.current(bench.scope).profile[TOKENIZER] == ""
    bench.index(source)
    check_ids(bench)
    assert next(row for row in bench.rows() if row["document_id"] == "x")["token_ids"] != before


def test_readers_take_a_table_without_the_column(two):
    bench, _ = two
    bench.index(bench.write("a.jsonl", {"x": "some text"}))
    forget_the_column(bench)
    old = open_release(bench.scope, releases.current(bench.scope))
    columns = columns_of(old.schema.names)
    assert "token_ids" not in columns
    (passage,) = passages_of(old.to_table(columns=columns))
    assert (passage.text, passage.token_ids) == ("some text", b"")


def test_a_version_without_the_column_can_serve_again_and_be_written_on(two):
    bench, _ = two
    bench.index(bench.write("a.jsonl", {"x": "some text"}))
    forget_the_column(bench)
    old = releases.current(bench.scope)
    bench.index(bench.write("b.jsonl", {"y": "more"}))
    dataset = stand_on(bench.scope, old, old.table, old.dimension)
    assert has_token_ids(dataset)
    assert dataset.to_table(columns=["token_ids"])["token_ids"].to_pylist() == [None]
    latest = open_latest(table_uri(bench.scope, old.table))
    assert latest.to_table(columns=["document_id"]).to_pylist() == [{"document_id": "x"}]
