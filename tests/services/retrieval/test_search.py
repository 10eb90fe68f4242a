"""Both legs over a real table, against brute force over the same rows."""

import asyncio
from dataclasses import replace

import lancedb
import numpy as np
import pytest
from lancedb.index import IvfHnswSq

from services.contracts import Question
from services.embedding.queries import QueryEncoder
from services.retrieval.filters import parse_filter
from services.retrieval.search import LocalRetriever, sample_texts
from services.settings import Retrieval
from tenants.errors import Unavailable
from tests.services.retrieval.conftest import DIMENSION, HashEncoder, Row, publish

WORDS = [f"word{number}" for number in range(60)]


class BrokenEncoder(HashEncoder):
    def encode(self, texts):
        raise RuntimeError("the engine died")


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(count)]
    return [
        Row(f"doc/{n // 2}", text, HashEncoder.vector(text), title=f"T{n}", metadata={"site": f"S{n % 3}", "n": n})
        for n, text in enumerate(texts)
    ]


def retriever(encoder=HashEncoder, **settings):
    return LocalRetriever(QueryEncoder(lambda _: encoder()), Retrieval(**{"leg_timeout_s": 300} | settings))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    from tenants.config import TenantConfig
    from tenants.scope import TenantScope

    data = rows(300)
    scope = TenantScope("acme", "t_test", TenantConfig(), str(tmp_path_factory.mktemp("search")))
    return asyncio.run(publish(scope, data)), data


@pytest.mark.parametrize("rows_bytes", [64 << 20, 0], ids=["rows in memory", "rows from the index"])
async def test_lists_are_brute_force(corpus, rows_bytes):
    scope, data = corpus
    found = await retriever(rows_bytes=rows_bytes, candidates=20).retrieve(scope, Question("word1 word2 word3"))
    vectors = np.stack([row.vector for row in data])
    cosines = vectors @ HashEncoder.vector("word1 word2 word3")
    best = [f"c_{row:05d}" for row in np.argsort(-cosines, kind="stable")[:20]]
    listed = np.flatnonzero(found.dense_rank > 0)
    assert [found.passages[row].chunk_id for row in listed[np.argsort(found.dense_rank[listed])]] == best
    for row, passage in enumerate(found.passages):
        number = int(passage.chunk_id[2:])
        assert found.dense[row] == pytest.approx(cosines[number], abs=1e-5)
        assert passage.text == data[number].text
        assert passage.metadata == data[number].metadata
        assert found.vectors[row] == pytest.approx(vectors[number])
        if found.sparse_rank[row]:
            assert {"word1", "word2", "word3"} & set(passage.text.split())
    by_rank = found.sparse[np.argsort(np.where(found.sparse_rank > 0, found.sparse_rank, 999))]
    assert np.all(np.diff(by_rank[: (found.sparse_rank > 0).sum()]) <= 0)
    assert found.legs == ("dense", "sparse")
    assert {"embed", "search"} <= set(found.timings_ms)
    assert [p.chunk_id for p in found.passages] == sorted(p.chunk_id for p in found.passages)


async def test_both_ways_to_the_rows_agree(corpus):
    scope, _ = corpus
    question = Question("word7 word8")
    memory, index = [await retriever(rows_bytes=size).retrieve(scope, question) for size in (64 << 20, 0)]
    assert memory.passages == index.passages
    assert memory.dense.tolist() == index.dense.tolist()
    assert memory.sparse_rank.tolist() == index.sparse_rank.tolist()


@pytest.mark.parametrize("rows_bytes", [64 << 20, 0])
async def test_filters_come_before_both_lists(corpus, rows_bytes):
    scope, _data = corpus
    tree = parse_filter(
        {
            "and": [
                {"field": "metadata.site", "op": "eq", "value": "S1"},
                {"field": "metadata.n", "op": "lt", "value": 100},
            ]
        }
    )
    found = await retriever(rows_bytes=rows_bytes).retrieve(scope, Question("word1 word2", filter=tree))
    allowed = {f"c_{n:05d}" for n in range(100) if n % 3 == 1}
    assert {passage.chunk_id for passage in found.passages} == allowed  # fewer than a list holds: all of them
    nothing = await retriever(rows_bytes=rows_bytes).retrieve(scope, Question("word1", collections=("other",)))
    assert nothing.passages == ()
    assert nothing.legs == ("dense", "sparse")


async def test_a_mode_reads_one_leg(corpus):
    scope, _ = corpus
    dense = await retriever().retrieve(scope, Question("word1", mode="dense"))
    sparse = await retriever().retrieve(scope, Question("word1", mode="sparse"))
    assert (dense.legs, sparse.legs) == (("dense",), ("sparse",))
    assert not dense.sparse_rank.any()
    assert not sparse.dense_rank.any()
    assert sparse.dense.any()  # exact cosines all the same


async def test_query_syntax_is_only_text(corpus):
    scope, _ = corpus
    for text in (
        'word1" OR *',
        "lexical:word1",
        "(word1 AND",
        "+word1 -word2 ~3^9",
        "\\",
        "'; DROP TABLE x; --",
        "word1\x00",
    ):
        found = await retriever().retrieve(scope, Question(text))
        assert found.legs == ("dense", "sparse"), text


async def test_an_empty_index_answers(corpus):
    scope, _ = corpus
    found = await retriever().retrieve(replace(scope, release=None), Question("anything"))
    assert (found.passages, found.legs) == ((), ("dense", "sparse"))
    assert found.query_vector.shape == (DIMENSION,)


async def test_without_the_encoder_full_text_still_answers(corpus):
    scope, _ = corpus
    found = await retriever(BrokenEncoder).retrieve(scope, Question("word1"))
    assert found.legs == ("sparse",)
    assert found.passages
    with pytest.raises(Unavailable, match="the embedder builtin failed"):
        await retriever(BrokenEncoder).retrieve(scope, Question("word1", mode="dense"))


async def test_without_a_text_index_the_vectors_still_answer(corpus, tmp_path):
    scope, data = corpus
    scope = await publish(replace(scope, root=str(tmp_path), release=None), data[:20])
    db = await lancedb.connect_async(scope.corpus_uri)
    table = await db.open_table(scope.release.table)
    await table.drop_index("lexical_idx")
    await table.alter_columns({"path": "lexical", "rename": "gone"})
    broken = replace(scope, release=replace(scope.release, lance_version=await table.version()))
    found = await retriever().retrieve(broken, Question("word1"))
    assert found.legs == ("dense",)
    assert len(found.passages) == 20


async def test_a_missing_version_is_unavailable_and_not_remembered(corpus):
    scope, _ = corpus
    reader = retriever()
    gone = replace(scope, release=replace(scope.release, lance_version=999))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await reader.retrieve(gone, Question("word1"))
    assert (await reader.retrieve(scope, Question("word1"))).passages


async def test_any_failed_opening_is_tried_again(corpus, monkeypatch):
    scope, _ = corpus
    reader = retriever()

    def broken(table, owner=""):
        raise KeyError("a damaged version")

    with monkeypatch.context() as patched:
        patched.setattr("services.retrieval.search.RowStore", broken)
        with pytest.raises(KeyError):
            await reader.retrieve(scope, Question("word1"))
    assert (await reader.retrieve(scope, Question("word1"))).passages
    await reader.close()


async def test_versions_stay_pinned(corpus, tmp_path):
    scope, _ = corpus
    first, second = rows(30, seed=1), rows(40, seed=2)
    old = await publish(replace(scope, root=str(tmp_path), release=None), first, table="one")
    new = await publish(replace(scope, root=str(tmp_path), release=None), second, table="two")
    reader = retriever(open_tables=1)
    for _ in range(2):
        for pinned, data in ((old, first), (new, second)):
            found = await reader.retrieve(pinned, Question("word5 word6"))
            assert {p.text for p in found.passages} == {row.text for row in data}


async def test_many_at_once_open_a_version_once(corpus):
    scope, _ = corpus
    reader = retriever()
    found = await asyncio.gather(*(reader.retrieve(scope, Question(f"word{n} word{n + 1}")) for n in range(40)))
    alone = [await retriever().retrieve(scope, Question(f"word{n} word{n + 1}")) for n in range(0, 40, 13)]
    for one, many in zip(alone, found[::13], strict=True):
        assert one.passages == many.passages
        assert one.dense.tolist() == many.dense.tolist()
    assert len(reader._open) == 1
    await reader.close()


async def test_large_versions_use_the_vector_index_and_warm_up(tmp_path, corpus, monkeypatch):
    scope, _ = corpus
    monkeypatch.setattr("services.retrieval.search.EXACT_ROWS", 100)
    monkeypatch.setattr("services.retrieval.search.EAGER_ROWS", 100)
    data = rows(2000, seed=3)
    scope = await publish(replace(scope, root=str(tmp_path), release=None), data)
    db = await lancedb.connect_async(scope.corpus_uri)
    table = await db.open_table(scope.release.table)
    await table.create_index("vector", config=IvfHnswSq(distance_type="cosine", num_partitions=1))
    scope = replace(scope, release=replace(scope.release, lance_version=await table.version()))
    vectors = np.stack([row.vector for row in data])
    reader = retriever(candidates=50)
    hits = 0
    for number in range(10):
        text = f"word{number} word{number + 20}"
        found = await reader.retrieve(scope, Question(text))
        listed = {int(p.chunk_id[2:]) for p, rank in zip(found.passages, found.dense_rank, strict=True) if rank}
        hits += len(listed & set(np.argsort(-(vectors @ HashEncoder.vector(text)))[:50].tolist()))
    assert hits >= 0.97 * 500
    (opened,) = reader._open.values()
    corpus_ = await opened
    await corpus_.loading
    assert corpus_.rows is not None
    assert (await reader.retrieve(scope, Question("word1"))).legs == ("dense", "sparse")
    await reader.close()


def test_sampled_texts_are_spread_and_repeatable(corpus):
    scope, data = corpus
    sample = sample_texts(scope, 50)
    assert sample == sample_texts(scope, 50)
    assert len(sample) == 50
    assert set(sample) <= {row.text for row in data}
    assert len(sample_texts(scope, 10_000)) == len(data)
    assert sample_texts(replace(scope, release=None), 5) == []
