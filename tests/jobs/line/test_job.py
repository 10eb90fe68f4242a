"""A job end to end, inline: what is new, changed, unchanged and gone; what it may delete; what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.indexing import attempt, driver
from jobs.indexing.attempt import check_submitted
from jobs.indexing.job import IndexJob
from jobs.indexing.manifest import load_manifest
from jobs.indexing.pipeline import run_index_job
from jobs.indexing.source import list_sources
from jobs.indexing.stages import run_inline
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.corpus.table import document_counts, open_release
from tenants.errors import Cancelled, Conflict, NeedsConfirmation, NotFound, QuotaExceeded
from tenants.ids import job_id

TEXTS = {
    f"doc-{number}": f"Document number {number} tells of whales, rivers and rain {number}." for number in range(40)
}


def test_new_documents_are_published_whole(bench):
    result = bench.index(bench.write("a.jsonl", TEXTS))
    assert result.index_version == 1
    assert (result.counts.new, result.counts.failed, result.chunks) == (40, 0, 40)
    assert bench.texts() == TEXTS
    release = releases.current(bench.scope)
    assert (release.documents, release.chunks) == (40, 40)
    assert release.tokens == result.tokens > 0
    row = bench.store.get_job(bench.scope, result.job_id)
    assert (row.state, row.index_version, row.counts["new"]) == ("succeeded", 1, 40)


def test_unchanged_corpus_embeds_nothing_and_publishes_nothing(bench):
    source = bench.write("a.jsonl", TEXTS)
    bench.index(source)
    before = bench.embed.calls
    result = bench.index(source)
    assert bench.embed.calls == before
    assert (result.counts.unchanged, result.counts.new, result.index_version) == (40, 0, 1)


def test_only_what_changed_is_embedded(bench):
    texts = {f"d{number}": f"text of document {number}" for number in range(200)}
    source = bench.write("a.jsonl", texts)
    bench.index(source)
    before = bench.embed.calls
    texts |= {"d7": "quite another text", "d99": "and another one"}
    result = bench.index(bench.write("a.jsonl", texts))
    assert bench.embed.calls - before == 2
    assert (result.counts.changed, result.counts.unchanged) == (2, 198)
    assert bench.texts() == texts
    assert releases.current(bench.scope).version == 2


def test_without_sync_nothing_is_deleted(bench):
    bench.index(bench.write("a.jsonl", TEXTS))
    bench.index(bench.write("a.jsonl", {"doc-1": TEXTS["doc-1"]}))
    assert bench.texts() == TEXTS


def test_sync_deletes_only_within_its_own_source(bench):
    mine = bench.write("a.jsonl", TEXTS)
    bench.index(mine)
    bench.index(bench.write("b.jsonl", {"other": "a document of another source"}))
    left = {name: text for name, text in TEXTS.items() if name not in ("doc-3", "doc-4")}
    result = bench.index(bench.write("a.jsonl", left), sync=True)
    assert result.counts.deleted == 2
    assert bench.texts() == {**left, "other": "a document of another source"}


def test_large_or_empty_listing_needs_confirmation(bench):
    bench.index(bench.write("a.jsonl", TEXTS))
    with pytest.raises(NeedsConfirmation, match="40 of the source's 40"):
        bench.index(bench.write("a.jsonl", {}), sync=True)
    half = dict(list(TEXTS.items())[:20])
    with pytest.raises(NeedsConfirmation, match="--yes"):
        bench.index(bench.write("a.jsonl", half), sync=True)
    assert bench.texts() == TEXTS
    assert bench.index(bench.write("a.jsonl", half), sync=True, yes=True).counts.deleted == 20
    assert bench.texts() == half


def test_listing_that_breaks_off_deletes_nothing(bench):
    source = bench.write("a.jsonl", TEXTS)
    bench.index(source)
    lines = source.read_text().splitlines(keepends=True)
    source.write_text("".join(lines[:-2]) + lines[-2][:20])
    with pytest.raises(NeedsConfirmation, match="could not be listed"):
        bench.index(source, sync=True)
    assert bench.texts() == TEXTS


def test_id_of_two_sources_is_an_error_row(bench):
    bench.index(bench.write("a.jsonl", {"x": "the first owner's text"}))
    result = bench.index(bench.write("b.jsonl", {"x": "the second one's", "y": "fine"}))
    assert [(error[0], error[2]) for error in result.errors] == [("x", "duplicate_id")]
    assert bench.texts() == {"x": "the first owner's text", "y": "fine"}
    errors, _ = bench.store.list_job_errors(result.job_id)
    assert errors[0].code == "duplicate_id"


def test_repeated_id_in_one_job_keeps_the_first(bench):
    source = bench.folder / "a.jsonl"
    source.write_text('{"_id": "x", "text": "first"}\n{"_id": "x", "text": "second"}\n')
    result = bench.index(source)
    assert result.counts.failed == 1
    assert bench.texts() == {"x": "first"}


def test_dry_run_shows_the_plan_and_changes_nothing(bench):
    bench.index(bench.write("a.jsonl", TEXTS))
    job = IndexJob(job_id("dry"), (str(bench.write("a.jsonl", {"doc-1": "new text", "z": "more"})),), sync=True)
    result = driver.plan_only(job, bench.scope, bench.store, bench.settings)
    assert (result.counts.new, result.counts.changed, result.counts.deleted) == (1, 1, 39)
    assert result.plan.bytes > 0
    assert result.plan.seconds >= 0
    assert bench.texts() == TEXTS
    assert not list((Path(bench.scope.base) / "jobs").glob("*/shards"))


def test_quota_of_documents(bench):
    quotas = bench.scope.config.quotas.model_copy(update={"documents": 10})
    config = bench.scope.config.model_copy(update={"quotas": quotas})
    bench.scope = driver.replace(bench.scope, config=config)
    with pytest.raises(QuotaExceeded, match="40 documents"):
        bench.index(bench.write("a.jsonl", TEXTS))


def test_other_chunking_reads_everything_again(bench):
    source = bench.write("a.jsonl", {"x": "word " * 200})
    assert bench.index(source).chunks == 1
    chunking = bench.scope.config.chunking.model_copy(update={"tokens": 64, "overlap": 8})
    bench.scope = driver.replace(bench.scope, config=bench.scope.config.model_copy(update={"chunking": chunking}))
    result = bench.index(source)
    assert result.counts.changed == 1
    assert len(bench.rows()) == result.chunks > 2


def test_job_id_does_its_work_once(bench):
    source = bench.write("a.jsonl", TEXTS)
    first = bench.index(source, job="job-a")
    again = bench.index(source, job="job-a")
    assert (again.index_version, again.counts) == (first.index_version, first.counts)
    with pytest.raises(Conflict, match="other work"):
        bench.index(bench.write("b.jsonl", TEXTS), job="job-a")


def _limited(bench, **quotas):
    config = bench.scope.config.model_copy(update={"quotas": bench.scope.config.quotas.model_copy(update=quotas)})
    bench.scope = driver.replace(bench.scope, config=config)


def test_quota_of_documents_never_stops_a_job_that_does_not_grow_the_index(bench):
    bench.index(bench.write("a.jsonl", TEXTS))
    _limited(bench, documents=10)
    fewer = dict(list(TEXTS.items())[:35]) | {"doc-1": "a changed text"}
    bench.index(bench.write("a.jsonl", fewer), sync=True)
    assert bench.texts() == fewer


def test_quota_of_bytes_a_day_fails_the_job_and_publishes_nothing(bench):
    source = bench.write("a.jsonl", TEXTS)
    _limited(bench, index_bytes_per_day=source.stat().st_size // 2)
    with pytest.raises(QuotaExceeded, match="left of your quota of") as refused:
        driver.plan_only(IndexJob(job_id("dry"), (str(source),)), bench.scope, bench.store, bench.settings)
    with pytest.raises(QuotaExceeded, match="renewed at midnight UTC"):
        bench.index(source, job="job-q")
    row = bench.store.get_job(bench.scope, "job-q")
    assert (row.state, row.error) == ("failed", refused.value.detail)
    assert (bench.texts(), bench.embed.calls) == ({}, 0)
    with pytest.raises(QuotaExceeded):
        bench.index(source, job="job-q")
    assert bench.store.used_today(bench.scope, driver.INDEX_BYTES) == 0


def test_bytes_are_counted_once_and_only_for_new_and_changed_documents(bench):
    source = bench.write("a.jsonl", TEXTS)

    def failing(shards, context):
        raise RuntimeError("a worker's bug")
        yield

    with pytest.raises(RuntimeError):
        bench.index(source, job="job-b", process=failing)
    used = bench.store.used_today(bench.scope, driver.INDEX_BYTES)
    assert used == sum(len(line) for line in source.read_text().splitlines())
    bench.index(source, job="job-b")
    bench.index(source)
    assert bench.store.used_today(bench.scope, driver.INDEX_BYTES) == used
    bench.index(bench.write("a.jsonl", TEXTS | {"doc-1": "changed"}))
    assert bench.store.used_today(bench.scope, driver.INDEX_BYTES) == used + len('{"_id": "doc-1", "text": "changed"}')


def test_cancelled_job_resumes_without_repeating_its_shards(bench, monkeypatch):
    texts = {f"d{number}": f"text of document {number}" for number in range(600)}
    source = bench.write("a.jsonl", texts)

    def cancelling(shards, context):
        for receipt in run_inline(shards, context, bench.embed):
            bench.store.request_cancel(bench.scope, "job-c")
            yield receipt

    monkeypatch.setattr(driver, "REPORT_EVERY_S", 0.0)
    with pytest.raises(Cancelled):
        bench.index(source, job="job-c", process=cancelling)
    assert bench.store.get_job(bench.scope, "job-c").state == "cancelled"
    assert bench.embed.calls == 256
    result = bench.index(source, job="job-c")
    assert bench.embed.calls == 600
    assert result.counts.new == 600
    assert bench.texts() == texts
    assert not (Path(bench.scope.base) / "jobs" / "job-c" / "receipts").exists()


def test_rollback_then_index_stands_on_the_version_that_serves(bench):
    bench.index(bench.write("a.jsonl", {"x": "first text", "y": "stays"}))
    bench.index(bench.write("a.jsonl", {"x": "second text", "y": "stays"}))
    with acquire(bench.scope, "rollback") as lease:
        releases.rollback(bench.scope, None, lease)
    assert bench.texts() == {"x": "first text", "y": "stays"}
    bench.index(bench.write("b.jsonl", {"z": "more"}))
    assert bench.texts() == {"x": "first text", "y": "stays", "z": "more"}
    with acquire(bench.scope, "rollback") as lease:
        releases.rollback(bench.scope, 2, lease)
    assert bench.texts() == {"x": "second text", "y": "stays"}


def test_manifest_agrees_with_the_table(bench):
    bench.index(bench.write("a.jsonl", {"x": "word " * 2_000, "y": "short"}))
    release = releases.current(bench.scope)
    manifest = load_manifest(bench.scope, release)
    counts, repeated, tokens = document_counts(open_release(bench.scope, release))
    assert repeated == 0
    assert tokens == release.tokens
    assert dict(zip(*counts.to_pydict().values(), strict=True)) == dict(
        zip(manifest["document_id"].to_pylist(), manifest["chunks"].to_pylist(), strict=True)
    )


def test_bad_rows_become_error_rows(bench):
    source = bench.folder / "a.jsonl"
    source.write_text('{"_id": "good", "text": "fine"}\nno json\n{"_id": "empty", "text": " "}\n')
    result = bench.index(source)
    assert result.counts.failed == 2
    assert bench.texts() == {"good": "fine"}


def test_failure_leaves_a_failed_job_that_resumes(bench):
    source = bench.write("a.jsonl", TEXTS)

    def failing(shards, context):
        raise RuntimeError("a worker's bug")
        yield

    with pytest.raises(RuntimeError):
        bench.index(source, job="job-f", process=failing)
    row = bench.store.get_job(bench.scope, "job-f")
    assert row.state == "failed"
    assert "resume" in row.error
    assert bench.index(source, job="job-f").counts.new == 40


def test_dry_run_of_a_queued_job_ends_its_row_with_the_plan(bench):
    job = IndexJob(job_id("job-dry"), (str(bench.write("a.jsonl", TEXTS)),), dry_run=True)
    bench.store.create_job(bench.scope, job.job_id, job.spec())
    planned = run_index_job(job, bench.scope, bench.store, bench.settings)
    row = bench.store.get_job(bench.scope, job.job_id)
    assert (row.state, row.counts["new"], row.index_version) == ("succeeded", 40, None)
    assert (row.counts["plan"]["documents"], row.counts["plan"]["bytes"]) == (40, planned.plan.bytes)
    assert bench.texts() == {}
    assert run_index_job(job, bench.scope, bench.store, bench.settings).counts == planned.counts


def test_dry_run_that_is_refused_fails_its_row(bench):
    _limited(bench, documents=10)
    job = IndexJob(job_id("job-dry"), (str(bench.write("a.jsonl", TEXTS)),), dry_run=True)
    bench.store.create_job(bench.scope, job.job_id, job.spec())
    with pytest.raises(QuotaExceeded) as refused:
        run_index_job(job, bench.scope, bench.store, bench.settings)
    row = bench.store.get_job(bench.scope, job.job_id)
    assert (row.state, row.error) == ("failed", refused.value.detail)


@pytest.mark.parametrize("dry_run", [False, True])
def test_job_cancelled_while_it_waited_never_starts(bench, dry_run):
    source = bench.write("a.jsonl", TEXTS)
    job = IndexJob(job_id("job-w"), (str(source),), dry_run=dry_run)
    bench.store.create_job(bench.scope, job.job_id, job.spec())
    bench.store.request_cancel(bench.scope, job.job_id)
    with pytest.raises(Conflict, match="been cancelled before it started"):
        run_index_job(job, bench.scope, bench.store, bench.settings)
    assert bench.store.get_job(bench.scope, job.job_id).state == "cancelled"
    assert bench.texts() == {}


def test_submitted_job_runs_only_for_the_tenant_that_asked(bench):
    acme = bench.store.get_tenant("acme")
    job = IndexJob(job_id("job-s"), (str(bench.write("a.jsonl", TEXTS)),))
    bench.store.create_job(acme, job.job_id, job.spec())
    check_submitted(bench.store, acme, job.job_id)
    with pytest.raises(Conflict, match="suspended"):
        check_submitted(bench.store, bench.store.set_state("acme", "suspended"), job.job_id)
    with pytest.raises(NotFound):
        check_submitted(bench.store, bench.store.create_tenant("other"), job.job_id)
    bench.store.delete_tenant("acme")
    with pytest.raises(NotFound):
        check_submitted(bench.store, bench.store.create_tenant("acme"), job.job_id)


def test_listing_stops_when_the_tenant_is_being_deleted(bench, monkeypatch):
    monkeypatch.setattr(attempt, "CHECK_EVERY_S", 0.0)
    taken = []

    def deleting(*arguments, **options):
        for number, item in enumerate(list_sources(*arguments, **options)):
            taken.append(item)
            if number == 5:
                bench.store.set_state("acme", "deleting")
            yield item

    monkeypatch.setattr(driver, "list_sources", deleting)
    with pytest.raises(Cancelled, match="deleted"):
        bench.index(bench.write("a.jsonl", TEXTS), job="job-d")
    assert len(taken) == 6
    assert bench.store.get_job(bench.scope, "job-d").state == "cancelled"
    with pytest.raises(NotFound):
        bench.index(bench.write("a.jsonl", TEXTS))
