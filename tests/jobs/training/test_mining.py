"""Mining from the first stage, in this process and on Ray: one order, and nothing reserved among the negatives."""

from dataclasses import replace

import pytest

from jobs.evaluation.memory_index import MemoryIndex
from jobs.training.mining import Miner, chunked, corpus_of, load_mined, mine_source, mined_digest
from jobs.training.sources import Judged, Sample, read_source
from services.embedding.encoder import load_encoder
from services.models import BUILTIN
from tenants.errors import InvalidInput


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_encoder(BUILTIN, cache_dir=str(tmp_path_factory.mktemp("models")))


def test_negatives_are_what_search_finds_without_answers_and_reserved_documents(labelled, encoder):
    source = read_source(Sample(labelled))
    mined = mine_source(source, encoder)
    documents = mined.passages["document_id"].to_pylist()
    for row, one in zip(mined.questions.to_pylist(), source.questions, strict=True):
        ranked = [documents[place] for place in row["ranking"]]
        assert [documents[place] for place in row["positives"]] == list(one.gold)
        assert row["fused"] == sorted(row["fused"], reverse=True)
        if one.split == "train":
            assert source.reserved.isdisjoint(ranked)
            assert set(one.gold).isdisjoint(ranked)
        else:
            assert one.gold[0] in ranked
    assert mined.questions.num_rows == 96


def test_the_nearest_documents_are_of_the_same_topic(labelled, encoder):
    mined = mine_source(read_source(Sample(labelled)), encoder)
    documents = mined.passages["document_id"].to_pylist()
    for row in mined.questions.to_pylist()[:20]:
        topic = documents[row["positives"][0]].split("-")[0]
        nearest = [documents[place].split("-")[0] for place in row["ranking"][:5]]
        assert nearest.count(topic) >= 4


def test_a_copy_of_the_answer_is_no_negative(encoder):
    documents = [{"_id": name, "title": "", "text": "The ferry leaves at nine."} for name in ("one", "two")]
    documents.append({"_id": "three", "title": "", "text": "The ferry is blue."})
    miner = Miner(MemoryIndex(encoder, documents), frozenset())
    (row,) = miner.mine([Judged("when does the ferry leave", ("one",), "train")]).to_pylist()
    assert row["positives"] == [0]
    assert row["ranking"] == [2]


def test_mined_questions_are_read_as_they_were_written(labelled, encoder, tmp_path):
    mined = mine_source(read_source(Sample(labelled)), encoder)
    assert mined_digest(tmp_path, mined.name) is None
    mined.save(tmp_path)
    again = load_mined(tmp_path, mined.name)
    assert mined_digest(tmp_path, mined.name) == again.digest == mined.digest
    assert again.questions.equals(mined.questions)
    assert again.passages.equals(mined.passages)


def test_what_was_mined_before_there_were_weights_counts_alike(labelled, encoder, tmp_path):
    mined = mine_source(read_source(Sample(labelled)), encoder)
    old = replace(mined, questions=mined.questions.drop_columns(["refused", "weight"]))
    old.save(tmp_path)
    assert load_mined(tmp_path, mined.name).questions.equals(mined.questions)
    replace(mined, questions=mined.questions.drop_columns(["fused"])).save(tmp_path)
    with pytest.raises(InvalidInput, match="mine them again"):
        load_mined(tmp_path, mined.name)


def test_what_was_not_mined_is_an_error(tmp_path):
    with pytest.raises(InvalidInput, match="mine them again"):
        load_mined(tmp_path, "nothing")


def test_chunks_cross_arrow_unchanged(encoder):
    text = " ".join(f"word{number}" for number in range(600))
    documents = [{"_id": "a", "title": "Long", "text": text}, {"_id": "b", "title": "", "text": "short"}]
    whole = MemoryIndex(encoder, documents)
    corpus = corpus_of(chunked(encoder, [{**one, "number": n} for n, one in enumerate(documents)]))
    assert len(corpus.passages) > 2
    assert corpus.passages == whole.passages
    assert corpus.vectors.shape == (len(corpus.passages), encoder.dimension)
