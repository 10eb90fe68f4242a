"""Reading labelled questions: plain and gzipped, and errors that name the line."""

import gzip
import json

import pytest

from jobs.evaluation.datasets import load_dataset, read_qrels
from tenants.errors import InvalidInput, NotFound

QUERIES = [{"_id": "q1", "text": "one"}, {"_id": "q2", "text": "two"}, {"_id": "q3", "text": "unjudged"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t2\nq2\td/3 x\t1\n"


def write(folder, *, zipped):
    lines = "".join(json.dumps(row) + "\n" for row in QUERIES)
    queries = folder / ("queries.jsonl.gz" if zipped else "queries.jsonl")
    queries.write_bytes(gzip.compress(lines.encode()) if zipped else lines.encode())
    qrels = folder / "dev.tsv"
    qrels.write_text(QRELS)
    return queries, qrels


def test_plain_and_gzipped_are_the_same(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain, packed = (load_dataset(*write(tmp_path / name, zipped=name == "b")) for name in "ab")
    assert plain == packed
    assert plain.queries == {"q1": "one", "q2": "two"}
    assert plain.judgements == {"q1": {"d1": 1, "d2": 2}, "q2": {"d/3 x": 1}}


def test_errors_name_the_line(tmp_path):
    (tmp_path / "bad.tsv").write_text("header\nq1\td1\n")
    with pytest.raises(InvalidInput, match=r"bad\.tsv line 2"):
        read_qrels(tmp_path / "bad.tsv")
    queries, qrels = write(tmp_path, zipped=False)
    queries.write_text('{"_id": "q1"}\n')
    with pytest.raises(InvalidInput, match=r"queries\.jsonl line 1"):
        load_dataset(queries, qrels)
    queries.write_text('{"_id": "q1", "text": "one"}\n')
    with pytest.raises(InvalidInput, match="judges 1 queries"):
        load_dataset(queries, qrels)
    with pytest.raises(NotFound):
        read_qrels(tmp_path / "none.tsv")
