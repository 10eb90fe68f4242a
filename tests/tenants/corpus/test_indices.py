"""The indices of a table: built, kept up by deltas, probed against brute force, merged, dropped when too small."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from tenants.corpus import indices
from tenants.corpus.indices import build_vectors, nearest, refresh, rewrite, text_found, text_options
from tenants.corpus.schema import corpus_schema
from tenants.corpus.table import document_counts, ensure_table, replace_documents
from tenants.errors import IntegrityError, LeaseLost

DIMENSION = 32


def rows(count: int, start: int = 0) -> pa.Table:
    random = np.random.default_rng(start)
    centres = np.random.default_rng(5).normal(size=(20, DIMENSION))
    vectors = centres[random.integers(0, 20, count)] + random.normal(size=(count, DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    texts = [f"unique{start + number} words about topic{number % 7} in the harbour" for number in range(count)]
    values = {
        "chunk_id": [f"c_{start + number}" for number in range(count)],
        "document_id": [f"d{start + number}" for number in range(count)],
        "text": texts,
        "lexical": texts,
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION),
    }
    columns = [_column(field, values, count) for field in corpus_schema(DIMENSION)]
    return pa.Table.from_arrays(columns, schema=corpus_schema(DIMENSION))


def _column(field: pa.Field, values: dict[str, object], count: int) -> pa.Array:
    if field.name == "vector":
        return values["vector"]
    blank = "" if field.type == pa.string() else 0
    return pa.array(values.get(field.name, [None if field.nullable else blank] * count), field.type)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "chunks.lance")


def add(dataset: lance.LanceDataset, table: pa.Table, removed: list[str] | None = None) -> lance.LanceDataset:
    from jobs.indexing.write import write_rows

    return replace_documents(dataset, removed or [], write_rows(table, dataset.uri))


def test_small_table_has_text_and_no_vector_index(uri):
    dataset = add(ensure_table(uri, DIMENSION), rows(50))
    dataset, index = refresh(dataset, ("en",), None)
    assert index.kind == "flat"
    assert {entry.name for entry in dataset.describe_indices()} == {"lexical_idx", "document_id_idx"}
    assert text_found(dataset) == 1.0


def test_vector_index_is_probed_against_brute_force(uri, monkeypatch):
    monkeypatch.setattr(indices, "FLAT_ROWS", 1_000)
    monkeypatch.setattr(indices, "ROWS_PER_PARTITION", 300)
    dataset = add(ensure_table(uri, DIMENSION), rows(3_000))
    dataset, index = refresh(dataset, ("en",), None)
    assert (index.kind, index.partitions, index.trained_rows) == ("IVF_SQ", 10, 3_000)
    assert index.recall >= indices.MIN_RECALL
    assert 1 <= index.probes <= 10


def test_index_that_fails_its_probe_is_dropped(uri, monkeypatch):
    monkeypatch.setattr(indices, "FLAT_ROWS", 100)
    monkeypatch.setattr(indices, "MIN_RECALL", 1.1)
    dataset = add(ensure_table(uri, DIMENSION), rows(500))
    assert build_vectors(dataset).kind == "flat"
    assert "vector_idx" not in {entry.name for entry in dataset.describe_indices()}


def test_brute_force_agrees_with_numpy(uri):
    dataset = add(ensure_table(uri, DIMENSION), rows(400))
    table = dataset.to_table(columns=["vector"], with_row_id=True)
    matrix = np.stack(table["vector"].to_numpy())
    question = matrix[:3]
    expected = [set(table["_rowid"].to_numpy()[order[:10]].tolist()) for order in np.argsort(-(question @ matrix.T), 1)]
    assert nearest(dataset, question, 10) == expected


def test_appended_rows_are_found_at_once_and_deltas_merge(uri, monkeypatch):
    monkeypatch.setattr(indices, "MAX_DELTAS", 2)
    dataset, index = refresh(add(ensure_table(uri, DIMENSION), rows(200)), ("en",), None)
    for turn in range(1, 6):
        dataset = add(dataset, rows(5, start=1_000 * turn), removed=[f"d{turn}"])
        dataset, index = refresh(dataset, ("en",), index.to_json())
        found = dataset.to_table(full_text_query=f"unique{1_000 * turn}", columns=["document_id", "_score"])
        assert found["document_id"].to_pylist() == [f"d{1_000 * turn}"]
        gone = dataset.to_table(full_text_query=f"unique{turn}", columns=["document_id", "_score"])
        assert gone.num_rows == 0
        assert dataset.stats.index_stats("lexical_idx")["num_indices"] <= 4
    counts, repeated, _ = document_counts(dataset)
    assert (counts.num_rows, repeated) == (220, 0)


def test_rewriting_joins_files_and_keeps_indices(uri):
    dataset, index = refresh(add(ensure_table(uri, DIMENSION), rows(200)), ("en",), None)
    for turn in range(1, 4):
        dataset, index = refresh(add(dataset, rows(5, start=1_000 * turn), ["d7"]), ("en",), index.to_json())
    rewrite(dataset, threshold=0.0)
    assert len(dataset.get_fragments()) == 1
    assert dataset.count_rows() == 214
    assert dataset.stats.index_stats("lexical_idx")["num_unindexed_rows"] == 0
    assert text_found(dataset) == 1.0


def test_text_index_that_finds_nothing_is_not_published(uri, monkeypatch):
    monkeypatch.setattr(indices, "text_found", lambda dataset: 0.5)
    dataset = add(ensure_table(uri, DIMENSION), rows(50))
    with pytest.raises(IntegrityError, match="50%"):
        refresh(dataset, ("en",), None)


def test_words_of_other_scripts_are_found(uri):
    table = rows(3)
    texts = ["東京都の天気は晴れです", "北京的天气很好", "Die Häuser am Fluß"]
    for name in ("text", "lexical"):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(texts))
    dataset, _ = refresh(add(ensure_table(uri, DIMENSION), table), ("ja", "zh"), None)
    for query, expected in (("天気", "d0"), ("天气", "d1"), ("hauser", "d2")):
        found = dataset.to_table(full_text_query=query, columns=["document_id", "_score"])
        assert expected in found["document_id"].to_pylist()


def test_stemming_needs_one_language_that_has_a_stemmer():
    assert text_options(("en",))["stem"]
    assert text_options(("de",))["language"] == "German"
    assert not text_options(("ja",))["stem"]
    assert not text_options(("en", "de"))["stem"]


def test_concurrent_commit_is_a_lost_lease(uri):
    from jobs.indexing.write import write_rows

    dataset = add(ensure_table(uri, DIMENSION), rows(10))
    stale = lance.dataset(uri, version=dataset.version)
    add(dataset, rows(5, start=100))
    with pytest.raises(LeaseLost):
        replace_documents(stale, ["d1"], write_rows(rows(5, start=200), uri))
