"""A job's life: queued → plan → shards → commit → finished; cancelled, killed and resumed at any point. Ray-free.

The driver reads receipts, never rows. It holds the job's own lease throughout (one driver per job) and the
tenant's lease only while it changes the corpus, so that small writes are not kept waiting by a long job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from jobs.evaluation.fusion_learning import learn_profile
from jobs.indexing.attempt import check_begins, check_goes_on, row_of, running_row, watched
from jobs.indexing.commit import Committed, Learn, Work, commit, prepare_table
from jobs.indexing.job import Counts, IndexJob, JobResult, Plan, Progress, Receipt
from jobs.indexing.manifest import load_manifest
from jobs.indexing.pair_ids import pair_tokenizer
from jobs.indexing.plan import Line, line_of, load_errors, load_gone, load_plan, make_plan
from jobs.indexing.source import Listed, list_sources
from jobs.indexing.stages import LineContext
from jobs.indexing.write import load_receipts, written_shards
from jobs.tracking import Run, run, stage_figure
from services.embedding.encoder import describe_encoder
from services.models import pinned
from services.settings import Settings
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.corpus.objects import open_objects
from tenants.errors import Conflict
from tenants.records import JobRow
from tenants.scope import Release, TenantScope
from tenants.store import Store

EXPERIMENT = "fathom/indexing"
INDEX_BYTES = "index_bytes"  # the name of the counter behind quotas.index_bytes_per_day
REPORT_EVERY_S = 1.0
LEASE_WAIT_S = 900.0
KEPT_ERRORS = 100  # in the result; the job's row has them all

Process = Callable[[Sequence[int], LineContext], Iterator[Receipt]]
Listener = Callable[[Progress], None]
Watch = Callable[[Iterable[Listed]], Iterable[Listed]]


@dataclass(slots=True)
class _Ledger:
    """What the job has done so far, for progress, counts and tracking."""

    job: IndexJob
    scope: TenantScope
    store: Store
    listener: Listener | None
    plan: Plan | None = None
    documents: int = 0
    chunks: int = 0
    failed: int = 0
    resumed: int = 0
    started: float = field(default_factory=time.perf_counter)
    reported: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def spend(self, seconds: Mapping[str, float]) -> None:
        """Add stage times."""
        for stage, value in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + value

    def counts(self) -> Counts:
        """As planned, with the failures so far."""
        planned = self.plan.counts if self.plan else Counts()
        return replace(planned, failed=planned.failed + self.failed)

    def progress(self, stage: str) -> Progress:
        """Where the job stands now."""
        total = self.plan.documents if self.plan else 0
        rate = (self.documents - self.resumed) / max(time.perf_counter() - self.started, 1e-9)
        eta = (total - self.documents) / rate if rate > 0 else None
        return Progress(stage, self.documents, total, self.chunks, round(rate, 2), eta)

    def report(self, stage: str, *, force: bool = False) -> None:
        """Tell the listener and, now and then, the store; raises as `check_goes_on` does."""
        progress = self.progress(stage)
        if self.listener:
            self.listener(progress)
        if force or time.perf_counter() - self.reported >= REPORT_EVERY_S:
            self.reported = time.perf_counter()
            check_goes_on(self.store, self.scope, self.job.job_id)
            self.store.update_job(
                self.job.job_id,
                stage=stage,
                counts={**asdict(self.counts()), "chunks": self.chunks},
                progress=asdict(progress),
            )


def plan_only(job: IndexJob, scope: TenantScope, store: Store, settings: Settings) -> JobResult:
    """`--dry-run`: the plan with counts, bytes and a time estimate; changes nothing but its own row, if it has one.

    The row of a submitted job ends as succeeded and holds the plan. Raises `QuotaExceeded` where the job itself
    would, `Cancelled`.
    """
    dry = replace(job, dry_run=True)
    row = row_of(dry, scope, store)
    if row is None or row.state == "succeeded":
        return _planned(dry, scope, store, settings, iter)
    check_begins(row)
    with running_row(store, row) as done:
        watch = partial(watched, store=store, scope=scope, identity=job.job_id)
        result = _planned(dry, scope, store, settings, watch)
        done |= {"state": "succeeded", "stage": "done", "counts": _plan_figures(result)}
    return result


def _plan_figures(result: JobResult) -> dict[str, Any]:
    plan = result.plan
    figures = plan and {name: getattr(plan, name) for name in ("documents", "bytes", "seconds", "shards")}
    return {**asdict(result.counts), "plan": figures}


def _planned(job: IndexJob, scope: TenantScope, store: Store, settings: Settings, watch: Watch) -> JobResult:
    started = time.perf_counter()
    plan = _plan(job, scope, store, settings, watch)
    version = plan.base_version
    spent = time.perf_counter() - started
    return JobResult(job.job_id, "planned", version, plan.counts, 0, 0, round(spent, 3), {"list": spent}, plan=plan)


def run_job(
    job: IndexJob,
    scope: TenantScope,
    store: Store,
    settings: Settings,
    process: Process,
    listener: Listener | None = None,
    learn: Learn | None = learn_profile,
) -> JobResult:
    """Run, or go on with, the job; the same id never does the same work twice.

    Raises `Cancelled`, `InFlight` (another driver has this job), `NotFound` (the tenant is being deleted), and
    whatever the plan or the commit refuses.
    """
    store.check_open(scope)
    row = store.create_job(scope, job.job_id, job.spec())
    if row.state == "succeeded":
        return _finished_before(row)
    check_begins(row)
    with acquire(scope, job.job_id, folder=f"{job.folder}/lease"), running_row(store, row) as done:
        with run(settings, EXPERIMENT, _params(job, scope)) as tracked:
            result = _work(_Ledger(job, scope, store, listener), scope, settings, process, learn, tracked)
        done |= _row_fields(result)
    open_objects(scope.base).delete(job.folder)
    return result


def _work(
    ledger: _Ledger, scope: TenantScope, settings: Settings, process: Process, learn: Learn | None, tracked: Run
) -> JobResult:
    job, began = ledger.job, time.perf_counter()
    watch = partial(watched, store=ledger.store, scope=scope, identity=job.job_id)
    plan = ledger.plan = _plan(job, scope, ledger.store, settings, watch)
    ledger.spend({"list": time.perf_counter() - began})
    line = Line(plan.fingerprint, plan.table, plan.embedder, plan.dimension)
    _process_shards(ledger, plan, scope, settings, line, process)
    ledger.report("commit", force=True)
    objects = open_objects(scope.base)
    with acquire(scope, job.job_id, wait_s=LEASE_WAIT_S) as lease:
        if objects.get(f"{job.folder}/plan.json") is None:
            raise Conflict("documents were erased while the job ran, and its work with them; start it again")
        receipts = tuple(load_receipts(objects, job.folder)) if plan.shards else ()
        rate = plan.bytes / max(time.perf_counter() - began, 1e-9) if plan.shards and not ledger.resumed else None
        pairs = pair_tokenizer(scope.config.rerankers.large, registry=settings.registry)
        work = Work(job.job_id, line, receipts, load_gone(job.folder, objects), plan.roots, rate, pairs)
        releases.repair(scope, lease)
        before = _published_before(scope, job)
        done = Committed(before, changed=True) if before else commit(scope, work, lease, learn)
    ledger.spend(done.seconds)
    errors = (*load_errors(job.folder, objects), *(error for receipt in receipts for error in receipt.errors))
    _store_errors(ledger.store, job.job_id, errors)
    result = _result(ledger, done.release, receipts, errors, time.perf_counter() - began, tracked)
    _track(tracked, ledger, result, done.release)
    return result


def _process_shards(
    ledger: _Ledger, plan: Plan, scope: TenantScope, settings: Settings, line: Line, process: Process
) -> None:
    objects, folder = open_objects(scope.base), ledger.job.folder
    written = written_shards(objects, folder)
    for receipt in load_receipts(objects, folder, *sorted(written)) if written else ():
        _count(ledger, receipt)
        ledger.resumed += len(receipt.documents) + len(receipt.errors)
    pending = [shard for shard in range(plan.shards) if shard not in written]
    ledger.report("embed", force=True)
    if not pending:
        return
    allow = settings.ingest.allow if ledger.job.untrusted else None
    with acquire(scope, ledger.job.job_id, wait_s=LEASE_WAIT_S):
        uri = prepare_table(scope, line)
    for receipt in process(pending, make_context(scope, settings, folder, uri, line, allow)):
        _count(ledger, receipt)
        ledger.report("embed")


def make_context(
    scope: TenantScope, settings: Settings, folder: str, uri: str, line: Line, allow: tuple[str, ...] | None
) -> LineContext:
    """What the stages need, from the tenant's configuration and the platform's settings."""
    return LineContext(
        uid=scope.uid,
        base=scope.base,
        folder=folder,
        table_uri=uri,
        fingerprint=line.fingerprint,
        chunking=scope.config.chunking,
        limits=settings.limits,
        allow=allow,
        embedder=line.embedder,
        cache_dir=settings.model_cache,
        threads=settings.cpu_threads,
        device=settings.device,
        reranker=scope.config.rerankers.large,
        registry=settings.registry,
    )


def current_line(scope: TenantScope, settings: Settings) -> Line:
    """Parser + chunker + embedder as the tenant's configuration has them now, an alias pinned to what it names now."""
    embedder = pinned(scope.config.embedder, registry=settings.registry)
    info = describe_encoder(embedder, registry=settings.registry)
    return replace(line_of(scope.config, info.fingerprint, info.dimension), embedder=embedder)


def _plan(job: IndexJob, scope: TenantScope, store: Store, settings: Settings, watch: Watch) -> Plan:
    objects = open_objects(scope.base)
    found = None if job.dry_run else load_plan(job, objects)
    if found is not None:
        return found
    base = releases.current(scope)
    manifest = load_manifest(scope, base)
    listed = list_sources(job.sources, settings.limits, allow=settings.ingest.allow, untrusted=job.untrusted)
    roots = [source_root(spec) for spec in job.sources]
    count = store.check_today if job.dry_run else store.spend_today
    admit = partial(count, scope, INDEX_BYTES, quota=scope.config.quotas.index_bytes_per_day)
    line = current_line(scope, settings)
    return make_plan(job, watch(listed), manifest, base, line, scope.config, objects, roots, admit)


def source_root(spec: str) -> str:
    """The name under which a source owns documents: a URL as it is, a path made absolute."""
    return spec if "://" in spec else str(Path(spec).expanduser().resolve())


def _count(ledger: _Ledger, receipt: Receipt) -> None:
    ledger.documents += len(receipt.documents) + len(receipt.errors)
    ledger.chunks += receipt.rows
    ledger.failed += len(receipt.errors)
    ledger.spend(receipt.seconds)


def _published_before(scope: TenantScope, job: IndexJob) -> Release | None:
    """The version that an earlier attempt published before it died."""
    return next((found for found in releases.list_releases(scope) if found.job_id == job.job_id), None)


def _store_errors(store: Store, job_id: str, errors: Sequence[tuple[str, str, str, str]]) -> None:
    store.add_job_errors(job_id, [{"document_id": d, "source": s, "code": c, "message": m} for d, s, c, m in errors])


def _result(
    ledger: _Ledger,
    release: Release | None,
    receipts: Sequence[Receipt],
    errors: Sequence[tuple[str, str, str, str]],
    seconds: float,
    tracked: Run,
) -> JobResult:
    return JobResult(
        job_id=ledger.job.job_id,
        state="succeeded",
        index_version=release.version if release else 0,
        counts=ledger.counts(),
        chunks=sum(receipt.rows for receipt in receipts),
        tokens=sum(receipt.tokens for receipt in receipts),
        seconds=round(seconds, 3),
        stage_seconds={stage: round(value, 3) for stage, value in ledger.seconds.items()},
        errors=tuple(errors[:KEPT_ERRORS]),
        run_id=tracked.wait_for_id(),
        plan=ledger.plan,
    )


def _row_fields(result: JobResult) -> dict[str, Any]:
    return {
        "state": "succeeded",
        "stage": "done",
        "index_version": result.index_version,
        "mlflow_run_id": result.run_id,
        "counts": {
            **asdict(result.counts),
            "chunks": result.chunks,
            "tokens": result.tokens,
            "seconds": result.seconds,
            "stage_seconds": dict(result.stage_seconds),
        },
    }


def _finished_before(row: JobRow) -> JobResult:
    """The answer to a job id that has done its work already."""
    known = {name: int(row.counts.get(name, 0)) for name in Counts.__dataclass_fields__}
    return JobResult(
        job_id=row.job_id,
        state="succeeded",
        index_version=row.index_version or 0,
        counts=Counts(**known),
        chunks=int(row.counts.get("chunks", 0)),
        tokens=int(row.counts.get("tokens", 0)),
        seconds=float(row.counts.get("seconds", 0)),
        stage_seconds=dict(row.counts.get("stage_seconds", {})),
        run_id=row.mlflow_run_id,
    )


def _params(job: IndexJob, scope: TenantScope) -> dict[str, object]:
    chunking = scope.config.chunking
    return {
        "tenant": scope.tenant,
        "job_id": job.job_id,
        "collection": job.collection,
        "sync": job.sync,
        "sources": len(job.sources),
        "embedder": scope.config.embedder,
        "chunk_tokens": chunking.tokens,
        "chunk_overlap": chunking.overlap,
    }


def _track(tracked: Run, ledger: _Ledger, result: JobResult, release: Release | None) -> None:
    counted = {f"documents_{name}": float(value) for name, value in asdict(result.counts).items()}
    staged = {f"seconds_{stage}": value for stage, value in result.stage_seconds.items()}
    rates = {"documents_per_s": ledger.documents / max(result.seconds, 1e-9), "seconds": result.seconds}
    tracked.metrics({**counted, **staged, **rates, "chunks": float(result.chunks), "tokens": float(result.tokens)})
    tracked.figure(stage_figure(result.stage_seconds, f"Where the time went: {result.job_id}"), "stages.png")
    if release is not None:
        tracked.tags({"manifest_digest": release.manifest_digest, "fingerprint": release.fingerprint})
        tracked.metrics({"index_version": float(release.version), "corpus_chunks": float(release.chunks)})
