"""Shared collections over real tables: found beside one's own, and nothing of their neighbours tells on them."""

from dataclasses import replace

import numpy as np
import pytest

from services.contracts import Question
from services.embedding.queries import QueryEncoder
from services.retrieval.filters import parse_filter
from services.retrieval.search import LocalRetriever
from services.settings import Retrieval
from tenants.config import TenantConfig
from tenants.scope import Shared, TenantScope
from tests.services.retrieval.conftest import HashEncoder, Row, publish

NAME = "library/manuals"
MANUALS = ["the pump needs oil every spring", "a valve opens under pressure", "oil the chain of the bicycle"]
PRIVATE = ["oil money went to the secret fund", "oil oil oil price of the merger", "pump the price before spring"]
OWN = ["our pump is green", "the office opens at nine"]


def rows(texts, collection="default", start=0):
    return [
        Row(f"{collection}/{number}.md", text, HashEncoder.vector(text), collection=collection, metadata={"n": number})
        for number, text in enumerate(texts, start)
    ]


async def owner(folder, private=PRIVATE, table="chunks_test"):
    scope = TenantScope("library", "t_owner", TenantConfig(), str(folder))
    return await publish(scope, [*rows(MANUALS, "manuals"), *rows(private, "private", start=10)], table)


def share(pinned, name=NAME):
    _, _, collection = name.partition("/")
    return Shared(name, pinned.uid, collection, pinned.corpus_uri, ("en",), pinned.release)


@pytest.fixture
async def subscriber(tmp_path):
    """Acme with two documents of its own, and the library's manuals beside them."""
    config = TenantConfig(shared_collections=(NAME,))
    scope = TenantScope("acme", "t_acme", config, str(tmp_path))
    pinned = await publish(scope, rows(OWN))
    return replace(pinned, shared=(share(await owner(tmp_path)),))


def retriever(**settings):
    return LocalRetriever(QueryEncoder(lambda _: HashEncoder()), Retrieval(**{"leg_timeout_s": 300} | settings))


async def ask(scope, text="pump oil", settings=None, **fields):
    reader = retriever(**(settings or {}))
    try:
        return await reader.retrieve(scope, Question(text, **fields))
    finally:
        await reader.close()


def texts(found):
    return {passage.text for passage in found.passages}


async def test_a_shared_collection_is_searched_beside_ones_own(subscriber):
    found = await ask(subscriber)
    assert texts(found) == {*MANUALS, *OWN}
    assert {passage.collection for passage in found.passages if passage.text in MANUALS} == {NAME}
    assert {passage.owner for passage in found.passages if passage.text in MANUALS} == {"t_owner/manuals"}
    assert {passage.owner for passage in found.passages if passage.text in OWN} == {""}
    assert found.unsearched == ()
    assert sorted(found.dense_rank.tolist()) == [1, 2, 3, 4, 5]
    assert sorted(rank for rank in found.sparse_rank.tolist() if rank) == [1, 2, 3]


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
async def test_no_question_reaches_the_private_neighbours(subscriber, mode):
    for text in ["secret fund merger price", *PRIVATE]:
        found = await ask(subscriber, text, mode=mode)
        assert texts(found) <= {*MANUALS, *OWN}


async def test_scores_do_not_move_by_a_bit_with_the_private_neighbours(subscriber, tmp_path):
    alone = replace(subscriber, shared=(share(await owner(tmp_path / "alone", private=[])),))
    for text in ["pump oil", "oil", "spring pressure", "merger"]:
        mine, theirs = await ask(subscriber, text), await ask(alone, text)
        for name in ("dense", "sparse", "dense_rank", "sparse_rank"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), (text, name)
        assert [one.text for one in mine.passages] == [one.text for one in theirs.passages]


async def test_the_list_of_collections_chooses(subscriber):
    assert texts(await ask(subscriber, collections=(NAME,))) == set(MANUALS)
    assert texts(await ask(subscriber, collections=("default",))) == set(OWN)
    assert texts(await ask(subscriber, collections=("default", NAME))) == {*MANUALS, *OWN}
    assert texts(await ask(subscriber, collections=("manuals",))) == set()  # the owner's own name for it
    assert texts(await ask(subscriber, collections=("library/private",))) == set()


async def test_filters_see_the_subscribers_name_of_the_collection(subscriber):
    equal = parse_filter({"field": "collection", "op": "eq", "value": NAME})
    assert texts(await ask(subscriber, filter=equal)) == set(MANUALS)
    assert texts(
        await ask(subscriber, filter=parse_filter({"not": {"field": "collection", "op": "eq", "value": NAME}}))
    ) == set(OWN)
    number = parse_filter({"field": "metadata.n", "op": "gte", "value": 10})
    assert texts(await ask(subscriber, filter=number)) == set()


async def test_what_is_not_granted_is_named_and_not_searched(subscriber):
    found = await ask(replace(subscriber, shared=()))
    assert texts(found) == set(OWN)
    assert found.unsearched == (NAME,)
    assert (await ask(replace(subscriber, shared=()), collections=("default",))).unsearched == ()


async def test_a_tenant_without_documents_searches_what_is_shared_with_it(subscriber):
    found = await ask(replace(subscriber, release=None))
    assert texts(found) == set(MANUALS)
    assert found.unsearched == ()


async def test_without_documents_and_without_grants_nothing_is_found(subscriber):
    found = await ask(replace(subscriber, release=None, shared=()))
    assert found.passages == ()
    assert found.unsearched == (NAME,)


async def test_another_embedder_cannot_stand_beside_ones_own(subscriber, tmp_path):
    other = share(await owner(tmp_path / "other", table="chunks_other"))
    found = await ask(replace(subscriber, shared=(other,)))
    assert texts(found) == set(OWN)
    assert found.unsearched == (NAME,)


async def test_a_collection_that_does_not_fit_the_memory_is_named(subscriber):
    found = await ask(subscriber, settings={"rows_bytes": 8_192})
    assert texts(found) == set(OWN)
    assert found.unsearched == (NAME,)


async def test_a_version_that_cannot_be_read_is_named_and_ones_own_answers(subscriber):
    gone = replace(subscriber.shared[0], corpus_uri=subscriber.shared[0].corpus_uri + "-gone")
    found = await ask(replace(subscriber, shared=(gone,)))
    assert texts(found) == set(OWN)
    assert found.unsearched == (NAME,)


async def test_a_collection_without_documents_is_searched_and_empty(subscriber, tmp_path):
    config = TenantConfig(shared_collections=("library/nothing",))
    empty = share(await owner(tmp_path / "again"), "library/nothing")
    found = await ask(replace(subscriber, config=config, shared=(empty,)))
    assert texts(found) == set(OWN)
    assert found.unsearched == ()
