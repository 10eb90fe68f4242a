"""The answerer's figures, by formula."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from jobs.evaluation.answers import (
    auroc,
    containment,
    false_accepts,
    fit_logistic,
    is_held_out,
    means,
    read_documents,
    read_questions,
    token_f1,
)


def test_token_f1_is_the_harmonic_mean_over_normalised_words() -> None:
    precision, recall = 2 / 4, 2 / 3  # "built in 1889 here" against "built 1889 quickly"
    assert token_f1("The built in 1889, here.", "built 1889 quickly") == pytest.approx(
        2 * precision * recall / (precision + recall)
    )
    assert token_f1("a b", "c") == 0.0


def test_containment_is_of_whole_words_or_a_share_of_a_long_gold() -> None:
    assert containment("It opened in 1889.", "1889") == 1.0
    assert containment("It opened in 18890.", "1889") == 0.0
    long = "one two three four five six seven eight nine ten eleven twelve"
    assert containment("one two three", long) == 3 / 12


def test_auroc_and_false_accepts_by_counting() -> None:
    able, twins = [0.9, 0.8, 0.4], [0.8, 0.1]
    assert auroc(able, twins) == (1 + 1 + 0.5 + 1 + 0 + 1) / 6
    assert false_accepts([0.5] * 10, [0.4, 0.5, 0.6]) == 2 / 3


def test_means_leave_out_what_a_question_does_not_have() -> None:
    assert means([{"a": 1.0, "b": None}, {"a": 0.0, "b": 4.0}]) == {"a": 0.5, "b": 4.0}


def test_the_logistic_fit_finds_the_maximum_of_its_penalised_likelihood() -> None:
    chance = np.random.default_rng(0)
    table = chance.normal(size=(400, 2)).astype(np.float32) * np.array([1, 10], np.float32)
    labels = (table @ np.array([1.5, -0.2]) + chance.logistic(size=400) > 0).astype(np.float32)
    weights, bias = fit_logistic(table, labels, 2.0)
    probability = 1 / (1 + np.exp(-(table @ weights + bias)))
    spread = table.std(axis=0)
    gradient = (table - table.mean(axis=0)).T @ (probability - labels) / spread + 2.0 * weights * spread
    assert np.abs(gradient).max() < 1e-2
    assert weights[0] > 0 > weights[1]


def test_held_out_titles_follow_their_hash_and_questions_their_split(tmp_path: Path) -> None:
    titles = [f"title {number}" for number in range(40)]
    documents = [{"_id": f"d{n}", "title": title, "text": "x"} for n, title in enumerate(titles)]
    questions = [{"_id": f"q{n}", "text": f"question {n}", "answers": ["x"]} for n in range(40)]
    for name, rows in (("corpus", documents), ("queries", questions)):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "qrels").mkdir()
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(40))
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    held_out = read_questions(tmp_path, "heldout", 100)
    trained = read_questions(tmp_path, "trained", 100)
    assert len(held_out) + len(trained) == 40
    assert all(is_held_out(titles[int(one.gold[0][1:])]) for one in held_out)
    assert {row["_id"] for row in read_documents(tmp_path, ["d3"], 5)} >= {"d3"}
    assert len(read_documents(tmp_path, ["d3"], 5)) == 6
