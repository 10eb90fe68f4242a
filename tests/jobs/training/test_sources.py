"""Folders of labelled questions: what is sampled, what is held back, what is refused."""

import json

import pytest

from jobs.evaluation.answers import is_held_out
from jobs.training.sources import Judged, Sample, read_dev_source, read_source
from tenants.errors import InvalidInput, NotFound


def test_dev_documents_are_reserved_and_asked_about_only_in_dev(labelled):
    source = read_source(Sample(labelled))
    train = [one for one in source.questions if one.split == "train"]
    dev = [one for one in source.questions if one.split == "dev"]
    assert (len(train), len(dev), len(source.documents)) == (84, 12, 96)
    assert all(source.reserved.isdisjoint(one.gold) for one in train)
    assert {document for one in dev for document in one.gold} == source.reserved


def test_without_a_dev_split_a_tenth_of_the_titles_is_held_back(labelled):
    (labelled / "qrels" / "dev.tsv").unlink()
    source = read_source(Sample(labelled))
    held = {row["_id"] for row in source.documents if is_held_out(row["title"])}
    assert held
    assert source.reserved == held
    assert all(held.isdisjoint(one.gold) for one in source.questions if one.split == "train")


def test_a_sample_takes_whole_titles_and_is_the_same_every_time(labelled):
    rows = [
        json.loads(line) | {"title": line.split("-")[0]}
        for line in (labelled / "corpus.jsonl").read_text().splitlines()
    ]
    (labelled / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = Sample.parse(f"{labelled}:7:20")
    source = read_source(sample)
    titles = [row["title"] for row in source.documents]
    assert len(titles) == 24
    assert len(set(titles)) == 2
    assert sum(one.split == "train" for one in source.questions) <= 7
    assert read_source(sample) == source


def test_the_same_words_asked_twice_are_one_question(labelled):
    with (labelled / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "again", "text": "What does TIDE 0 tell"}) + "\n")
    with (labelled / "qrels" / "train.tsv").open("a") as file:
        file.write("again\ttide-5\t1\n")
    found = [one for one in read_source(Sample(labelled)).questions if one.text == "what does tide 0 tell"]
    assert [one.gold for one in found] == [("tide-0", "tide-5")]


def test_a_folder_may_only_measure(labelled):
    source = read_dev_source(Sample(labelled))
    assert {one.split for one in source.questions} == {"dev"}
    assert len(source.reserved) == 96


def write_teacher(folder, *rows):
    (folder / "teacher.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")


def test_a_teachers_scores_come_with_the_questions(labelled):
    write_teacher(labelled, "q-tide-0\ttide-0\t4.5", "q-tide-0\ttide-1\t-2.25")
    found = {one.text: one for one in read_source(Sample(labelled)).questions}
    assert found["what does tide 0 tell"].taught == {"tide-0": 4.5, "tide-1": -2.25}
    assert found["what does tide 1 tell"].taught == {}
    assert Judged.from_json(found["what does tide 0 tell"].to_json()) == found["what does tide 0 tell"]


def test_without_labels_the_teachers_best_is_the_answer(labelled):
    (labelled / "qrels" / "train.tsv").unlink()
    write_teacher(labelled, "q-tide-0\ttide-3\t4.5", "q-tide-0\ttide-1\t-2.25")
    (one,) = [one for one in read_source(Sample(labelled)).questions if one.split == "train"]
    assert (one.text, one.gold) == ("what does tide 0 tell", ("tide-3",))


@pytest.mark.parametrize("score", ["high", "nan", "inf"])
def test_a_teachers_score_is_a_finite_number(labelled, score):
    write_teacher(labelled, f"q-tide-0\ttide-0\t{score}")
    with pytest.raises(InvalidInput, match=r"teacher\.tsv line 2"):
        read_source(Sample(labelled))


@pytest.mark.parametrize("text", ["folder:x", "folder:1:2:3", "folder:0", "folder:5:"])
def test_bad_samples_are_refused(text):
    with pytest.raises(InvalidInput, match="FOLDER:QUESTIONS"):
        Sample.parse(text)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(NotFound, match=r"corpus\.jsonl"):
        read_source(Sample(tmp_path))


def test_empty_corpus_malformed_rows_and_missing_labels_are_refused(labelled):
    corpus = labelled / "corpus.jsonl"
    whole = corpus.read_text()
    corpus.write_text("")
    with pytest.raises(InvalidInput, match="holds no document"):
        read_source(Sample(labelled))
    corpus.write_text(whole + "{broken\n")
    with pytest.raises(InvalidInput, match="line 97"):
        read_source(Sample(labelled))
    corpus.write_text(whole)
    (labelled / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq-tide-0\ttide-0\t0\n")
    with pytest.raises(InvalidInput, match="no training question with a relevant document"):
        read_source(Sample(labelled))
    (labelled / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq-tide-0 tide-0\n")
    with pytest.raises(InvalidInput, match="line 2"):
        read_source(Sample(labelled))
