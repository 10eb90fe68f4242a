"""Small online writes: visible on return, never twice, the later one wins, and fair under concurrency."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.corpus.table import document_counts, open_release
from tenants.errors import Conflict, FathomError, NotFound, QuotaExceeded
from tenants.scope import Release


def docs(**texts: str) -> list[dict[str, str]]:
    return [{"id": name, "text": text} for name, text in texts.items()]


def test_documents_are_visible_when_the_call_returns(bench):
    answer = bench.writer().index_documents(bench.scope, docs(a="alpha text", b="beta text"))
    assert answer == {"indexed": 2, "unchanged": 0, "failed": [], "index_version": 1}
    assert bench.texts() == {"a": "alpha text", "b": "beta text"}


def test_unchanged_documents_cost_nothing(bench):
    writer = bench.writer()
    writer.index_documents(bench.scope, docs(a="alpha text", b="beta text"))
    calls = bench.embed.calls
    answer = writer.index_documents(bench.scope, docs(a="alpha text", b="new beta"))
    assert (answer["indexed"], answer["unchanged"], answer["index_version"]) == (1, 1, 2)
    assert bench.embed.calls == calls + 1
    assert bench.texts() == {"a": "alpha text", "b": "new beta"}


def test_bad_documents_are_reported_and_the_rest_is_indexed(bench):
    documents = [*docs(a="fine", empty=" "), {"id": "a", "text": "second"}, {"id": "", "text": "no id"}]
    answer = bench.writer().index_documents(bench.scope, documents)
    assert answer["indexed"] == 1
    assert sorted(row["code"] for row in answer["failed"]) == ["duplicate_id", "empty", "invalid_id"]
    assert bench.texts() == {"a": "fine"}


def test_uploads_of_any_format(bench):
    uploads = [("notes/guide.md", b"# Title\n\nSome words here.\n"), ("rows.jsonl", b'{"id": "r1", "text": "a row"}\n')]
    answer = bench.writer().index_documents(bench.scope, [], uploads, "manuals")
    assert answer["failed"] == []
    assert set(bench.texts()) == {"notes/guide.md", "r1"}
    assert {row["collection"] for row in bench.rows()} == {"manuals"}


def test_id_of_another_source_is_refused(bench):
    bench.index(bench.write("a.jsonl", {"x": "owned by a file"}))
    answer = bench.writer().index_documents(bench.scope, docs(x="mine"))
    assert answer["failed"][0]["code"] == "duplicate_id"
    assert bench.texts() == {"x": "owned by a file"}


def test_delete_and_its_error(bench):
    writer = bench.writer()
    with pytest.raises(NotFound):
        writer.delete_documents(bench.scope, ["a"])
    writer.index_documents(bench.scope, docs(a="alpha text", b="beta text"))
    assert writer.delete_documents(bench.scope, ["a"]) == {"index_version": 2}
    assert bench.texts() == {"b": "beta text"}
    with pytest.raises(NotFound):
        writer.delete_documents(bench.scope, ["a"])


def test_last_document_can_go(bench):
    writer = bench.writer()
    writer.index_documents(bench.scope, docs(a="alpha text"))
    writer.delete_documents(bench.scope, ["a"])
    assert bench.rows() == []
    assert writer.index_documents(bench.scope, docs(a="alpha again"))["index_version"] == 3
    assert bench.texts() == {"a": "alpha again"}


def test_quota(bench):
    quotas = bench.scope.config.quotas.model_copy(update={"documents": 1})
    config = bench.scope.config.model_copy(update={"quotas": quotas})
    scope = type(bench.scope)(bench.scope.tenant, bench.scope.uid, config, bench.scope.root)
    with pytest.raises(QuotaExceeded):
        bench.writer().index_documents(scope, docs(a="one", b="two"))


def test_changed_embedder_asks_for_a_job(bench, make_release):
    with acquire(bench.scope, "other") as lease:
        releases.publish(bench.scope, make_release(), lease)
    with pytest.raises(Conflict, match="run an index job"):
        bench.writer().index_documents(bench.scope, docs(a="one"))


def test_eight_writers_with_overlapping_ids(bench):
    """0 duplicates, 0 lost updates: every id holds the text of one of its writers, and unshared ids their own."""
    writer = bench.writer()
    failures: list[FathomError] = []

    def work(number: int) -> None:
        for turn in range(3):
            shared = {f"shared-{key}": f"writer {number} turn {turn} wrote key {key}" for key in range(5)}
            own = {f"own-{number}-{turn}": f"only writer {number} in turn {turn}"}
            try:
                writer.index_documents(bench.scope, docs(**shared, **own), timeout_s=600)
            except FathomError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    texts = bench.texts()
    assert len(texts) == 5 + 24
    assert all(text == f"only writer {name[4]} in turn {name[6]}" for name, text in texts.items() if name[:3] == "own")
    assert all(text.endswith(f"turn 2 wrote key {name[-1]}") for name, text in texts.items() if name[:6] == "shared")
    release = releases.current(bench.scope)
    _, repeated, _ = document_counts(open_release(bench.scope, release))
    assert repeated == 0
    assert release.version <= 24


def test_waits_for_a_foreign_writer_and_gives_up_in_time(bench):
    writer = bench.writer()
    writer.index_documents(bench.scope, docs(a="alpha"))
    with acquire(bench.scope, "job_foreign"):
        started = time.monotonic()
        with pytest.raises(FathomError) as caught:
            writer.index_documents(bench.scope, docs(b="beta"), timeout_s=0.5)
        assert caught.value.retryable
        assert time.monotonic() - started >= 0.5
    assert writer.index_documents(bench.scope, docs(b="beta"))["index_version"] == 2


@pytest.fixture
def make_release():
    def make() -> Release:
        return Release(0, "chunks_other", 1, "f", "other", 4, "", 0, 0, 0, "manifests/none.parquet", "m", "job_x")

    return make


def test_quota_of_bytes_a_day_holds_for_small_batches(bench):
    quotas = bench.scope.config.quotas.model_copy(update={"index_bytes_per_day": 100})
    bench.scope = replace(bench.scope, config=bench.scope.config.model_copy(update={"quotas": quotas}))
    writer = bench.writer()
    writer.index_documents(bench.scope, docs(a="alpha text"))
    with pytest.raises(QuotaExceeded, match="left of your quota of 100 a day") as refused:
        writer.index_documents(bench.scope, docs(b="beta " * 30))
    assert refused.value.retry_after_s > 0
    assert bench.texts() == {"a": "alpha text"}
    assert writer.index_documents(bench.scope, docs(a="alpha text"))["unchanged"] == 1
