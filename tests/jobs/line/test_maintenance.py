"""Maintenance: erased bytes are gone everywhere, garbage is what nobody needs, verify finds what is wrong."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from jobs.indexing import driver
from jobs.indexing.stages import run_inline
from jobs.indexing.write import write_rows
from jobs.maintenance import drop as dropping
from jobs.maintenance import sweep as sweeping
from jobs.maintenance.compact import compact
from jobs.maintenance.drop import drop
from jobs.maintenance.erase import erase
from jobs.maintenance.garbage import collect
from jobs.maintenance.sweep import sweep
from jobs.maintenance.verify import content_digest, verify
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.corpus.table import open_release, table_uri
from tenants.errors import Cancelled, Conflict, FathomError, IntegrityError, NotFound

CANARY = "zyxcanary5521"
TEXTS = {f"doc-{number}": f"Document number {number} tells of whales and rain {number}." for number in range(30)}


def files_with(scope, needle: str) -> list[str]:
    """Files below the tenant's folder whose bytes hold `needle`."""
    found = (path for path in Path(scope.base).rglob("*") if path.is_file())
    return [str(path) for path in found if needle.encode() in path.read_bytes()]


def test_erased_bytes_are_nowhere(bench):
    texts = {**TEXTS, CANARY: f"The secret word is {CANARY}, and it stands here."}
    bench.index(bench.write("a.jsonl", texts))
    bench.index(bench.write("a.jsonl", texts | {"doc-1": "changed once"}))
    unfinished = table_uri(bench.scope, releases.current(bench.scope).table)
    rows = open_release(bench.scope, releases.current(bench.scope)).to_table()
    write_rows(rows, unfinished)
    assert files_with(bench.scope, CANARY)
    answer = erase(bench.scope, [CANARY])
    assert answer == {"erased": 1, "index_version": 3}
    assert files_with(bench.scope, CANARY) == []
    assert bench.texts() == TEXTS | {"doc-1": "changed once"}
    verify(bench.scope)


def test_rollback_never_brings_erased_documents_back(bench):
    bench.index(bench.write("a.jsonl", TEXTS))
    bench.index(bench.write("a.jsonl", TEXTS | {"doc-1": "changed once"}))
    erase(bench.scope, ["doc-2"])
    with acquire(bench.scope, "rollback") as lease, pytest.raises(Conflict, match="erased"):
        releases.rollback(bench.scope, 1, lease)
    assert "doc-2" not in bench.texts()


def test_erase_of_nothing(bench):
    with pytest.raises(NotFound):
        erase(bench.scope, ["x"])


def test_job_that_erasure_cleared_says_so(bench):
    bench.index(bench.write("a.jsonl", TEXTS))

    def erasing(shards, context):
        erase(bench.scope, ["doc-3"])
        yield from ()

    with pytest.raises(Conflict, match="erased"):
        bench.index(bench.write("b.jsonl", {"other": "text"}), process=erasing)
    assert "other" not in bench.texts()


def test_compaction_keeps_the_content(bench):
    writer = bench.writer()
    for number in range(5):
        writer.index_documents(bench.scope, [{"id": f"d{number}", "text": f"text number {number}"}])
    writer.delete_documents(bench.scope, ["d3"])
    before = content_digest(open_release(bench.scope, releases.current(bench.scope)))
    release = compact(bench.scope)
    dataset = open_release(bench.scope, release)
    assert content_digest(dataset) == before
    assert len(dataset.get_fragments()) == 1
    assert dataset.get_fragments()[0].metadata.num_deletions == 0
    verify(bench.scope)


def test_garbage_keeps_what_can_serve(bench):
    for turn in range(6):
        bench.index(bench.write("a.jsonl", {"x": f"text of turn {turn}"}))
    freed = collect(bench.scope, bench.store, keep=2)
    assert freed.versions == (1, 2, 3, 4)
    assert [release.version for release in releases.list_releases(bench.scope)] == [5, 6]
    with acquire(bench.scope, "rollback") as lease:
        releases.rollback(bench.scope, None, lease)
    assert bench.texts() == {"x": "text of turn 4"}
    assert len(list((Path(bench.scope.base) / "manifests").iterdir())) == 2
    assert not files_with(bench.scope, "text of turn 1")


def test_verify_finds_a_changed_manifest(bench):
    bench.index(bench.write("a.jsonl", TEXTS))
    report = verify(bench.scope)
    assert (report.documents, report.chunks) == (30, 30)
    assert report.text_found == 1.0
    other = bench.folder / "other"
    other.mkdir()
    release = releases.current(bench.scope)
    bench.index(bench.write("b.jsonl", {"z": "one more"}))
    newer = releases.current(bench.scope)
    base = Path(bench.scope.base)
    (base / newer.manifest).write_bytes((base / release.manifest).read_bytes())
    with pytest.raises(IntegrityError):
        verify(bench.scope)


def test_dropped_tenant_leaves_nothing(bench):
    bench.index(bench.write("a.jsonl", TEXTS))
    drop(bench.scope)
    assert not Path(bench.scope.base).exists()


def test_dropping_waits_for_the_driver_that_was_cancelled(bench, monkeypatch):
    """The driver sits in its first shard when the tenant is deleted; it ends itself, and nothing of it stays."""
    monkeypatch.setattr(driver, "REPORT_EVERY_S", 0.0)
    source = bench.write("a.jsonl", {f"d{number}": f"text of document {number}" for number in range(600)})
    reached, go_on = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def process(shards, context):
        for receipt in run_inline(shards, context, bench.embed):
            reached.set()
            assert go_on.wait(300)
            yield receipt

    def work() -> None:
        try:
            bench.index(source, process=process)
        except FathomError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert reached.wait(300)
        tenant = bench.store.set_state("acme", "deleting")
        assert len(bench.store.cancel_jobs(tenant)) == 1
        monkeypatch.setattr(dropping, "_POLL_S", 0.01)
        threading.Timer(0.0, go_on.set).start()
        drop(bench.scope, wait_s=300)
    finally:
        go_on.set()
        thread.join()
    assert [type(failure) for failure in failures] == [Cancelled]
    assert not Path(bench.scope.base).exists()
    assert bench.store.list_jobs(bench.scope)[0][0].state == "cancelled"


def test_what_a_straggler_writes_is_swept_and_nobody_else_s(bench, monkeypatch):
    bench.index(bench.write("a.jsonl", TEXTS))
    other = bench.store.create_tenant("other")
    kept = Path(bench.settings.root) / "tenants" / other.uid / "corpus" / "x"
    kept.parent.mkdir(parents=True)
    kept.write_text("of a tenant that nobody dropped")
    drop(bench.scope)
    late = Path(bench.scope.base) / "jobs" / "j" / "receipts" / "1.json"
    late.parent.mkdir(parents=True)
    late.write_text(CANARY)
    assert sweep(bench.settings.root) == (bench.scope.uid,)
    assert not Path(bench.scope.base).exists()
    assert kept.exists()
    assert sweep(bench.settings.root) == ()
    monkeypatch.setattr(sweeping, "KEPT_S", 0.0)
    sweep(bench.settings.root)
    assert list((Path(bench.settings.root) / "deleted").iterdir()) == []


def test_nothing_is_written_for_a_tenant_that_is_being_deleted(bench):
    writer = bench.writer()
    bench.store.set_state("acme", "deleting")
    with pytest.raises(NotFound):
        writer.index_documents(bench.scope, [{"id": "a", "text": "alpha"}])
    assert not Path(bench.scope.base).exists()
