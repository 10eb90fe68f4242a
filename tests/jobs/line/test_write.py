"""Fragments and receipts: storage errors lose no row, retries count once, half-written work is never published."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jobs.indexing import write
from jobs.indexing.job import Receipt
from jobs.indexing.write import load_receipts, receipt_from_json, receipt_to_json, write_shard, written_shards
from tenants.corpus.objects import open_objects
from tenants.corpus.table import ensure_table
from tenants.errors import Conflict, IntegrityError, Unavailable


def test_receipt_survives_json():
    receipt = Receipt(3, 5, 70, ("{}",), (("d", "s", "c", "x", 9, 5),), (("e", "s", "empty", "m"),), {"parse": 0.5})
    assert receipt_from_json(receipt_to_json(receipt)) == receipt


def test_a_fifth_of_writes_failing_loses_nothing(bench, monkeypatch):
    """The fault seam is Lance's own function, which is told to fail before or after it wrote its file."""
    real, chance = write.write_fragments, random.Random(7)
    failed = 0

    def flaky(*arguments, **options):
        nonlocal failed
        roll = chance.random()
        if roll < 0.1:
            failed += 1
            raise OSError("injected before the write")
        fragments = real(*arguments, **options)
        if roll < 0.2:
            failed += 1
            raise OSError("injected after the write")
        return fragments

    monkeypatch.setattr(write, "write_fragments", flaky)
    monkeypatch.setattr(write, "_FIRST_PAUSE_S", 0.0)
    texts = {f"d{number}": f"text of document {number}" for number in range(256 * 24)}
    result = bench.index(bench.write("a.jsonl", texts))
    assert failed >= 3
    assert result.chunks == len(texts)
    assert bench.texts() == texts


def test_storage_that_never_works_says_so(bench, monkeypatch):
    def broken(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(write, "write_fragments", broken)
    monkeypatch.setattr(write, "_FIRST_PAUSE_S", 0.0)
    with pytest.raises(Unavailable, match="resume the job"):
        bench.index(bench.write("a.jsonl", {"x": "text"}), job="job-w")
    assert bench.store.get_job(bench.scope, "job-w").state == "failed"
    monkeypatch.undo()
    bench.index(bench.write("a.jsonl", {"x": "text"}), job="job-w")
    assert bench.texts() == {"x": "text"}


def test_short_write_is_noticed(bench, monkeypatch):
    real = write.write_fragments

    def short(reader, *arguments, **options):
        return real(reader.read_all().slice(1), *arguments, **options)

    monkeypatch.setattr(write, "write_fragments", short)
    with pytest.raises(IntegrityError, match="2 rows were given"):
        bench.index(bench.write("a.jsonl", {"x": "text", "y": "more"}))
    assert bench.rows() == []


def test_second_attempt_of_a_shard_gives_the_first_receipt(bench, hashing):
    objects = open_objects(bench.scope.base)
    bench.index(bench.write("a.jsonl", {"x": "text"}))
    table = hashing.rows_of(bench)
    uri = f"{bench.scope.corpus_uri}/other.lance"
    ensure_table(uri, hashing.DIMENSION)
    where = {"table_uri": uri, "objects": objects, "folder": "jobs/j", "shard": 4}
    objects.put("jobs/j/plan.json", b"{}")
    first = write_shard(table, (), (), {}, **where)
    second = write_shard(table, (), (), {}, **where)
    assert second.fragments == first.fragments
    assert written_shards(objects, "jobs/j") == {4}
    assert [receipt.fragments for receipt in load_receipts(objects, "jobs/j")] == [first.fragments]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_shard_whose_work_was_cleared_away_leaves_nothing(bench, hashing, monkeypatch, when):
    objects = open_objects(bench.scope.base)
    bench.index(bench.write("a.jsonl", {"x": "text"}))
    table, uri = hashing.rows_of(bench), f"{bench.scope.corpus_uri}/other.lance"
    ensure_table(uri, hashing.DIMENSION)
    files = set(Path(uri).rglob("*.lance"))
    real = write.write_fragments

    def cleared(*arguments, **options):
        fragments = real(*arguments, **options)
        objects.delete("jobs/j")
        return fragments

    if when == "meanwhile":
        objects.put("jobs/j/plan.json", b"{}")
        monkeypatch.setattr(write, "write_fragments", cleared)
    with pytest.raises(Conflict, match="cleared away"):
        write_shard(table, (), (), {}, table_uri=uri, objects=objects, folder="jobs/j", shard=4)
    assert set(Path(uri).rglob("*.lance")) == files
    assert objects.keys("jobs/j") == []
