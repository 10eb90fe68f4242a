"""`python -m jobs.indexing --tenant acme --source DIR`: index a tenant's documents with a Ray Data job.

The same entrypoint under `ray job submit --working-dir . -- python -m jobs.indexing …`. With `--json` stdout holds
one JSON document and nothing else; progress goes to stderr as plain lines. Exit codes: 0 done, 1 failed or
cancelled, 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jobs.command import fail, interrupt
from jobs.indexing.attempt import check_submitted
from jobs.indexing.job import DEFAULT_COLLECTION, IndexJob, JobResult, Progress
from jobs.indexing.pipeline import run_index_job
from services.control_plane import open_control_plane
from services.settings import load_settings
from tenants.errors import FathomError
from tenants.ids import collection_name, job_id, new_job_id, tenant_name
from tenants.scope import TenantScope
from tenants.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job to its end."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        result = _run(options)
    except FathomError as error:
        return fail(error.code, error.detail, as_json=options.json)
    except KeyboardInterrupt:
        return fail("cancelled", "the job was interrupted; resume it by its id to go on", as_json=options.json)
    print(json.dumps(result.to_json()) if options.json else _sentence(result))  # noqa: T201 - the result is the output
    return 0


def _run(options: argparse.Namespace) -> JobResult:
    settings = load_settings(data_dir=options.data_dir)
    store = open_control_plane(settings)
    try:
        tenant = store.get_tenant(tenant_name(options.tenant))
        if options.submitted:
            check_submitted(store, tenant, options.submitted)
        scope = store.scope_of(tenant, settings.root)
        job = _job(options, scope, store)
        return run_index_job(job, scope, store, settings, _show)
    finally:
        store.close()


def _job(options: argparse.Namespace, scope: TenantScope, store: Store) -> IndexJob:
    """The order of the command line, or the one that a job to be resumed was given."""
    if options.resume:
        return IndexJob(**_order(store.get_job(scope, job_id(options.resume)).spec, options.resume))
    named = options.submitted or options.job_id
    identity = job_id(named) if named else new_job_id()
    return IndexJob(
        job_id=identity,
        sources=tuple(options.source),
        collection=collection_name(options.collection),
        sync=options.sync,
        yes=options.yes,
        dry_run=options.dry_run,
        untrusted=options.untrusted,
    )


def _order(spec: Any, identity: str) -> dict[str, Any]:
    known = {name: spec[name] for name in IndexJob.__dataclass_fields__ if name in spec}
    return {**known, "job_id": job_id(identity), "sources": tuple(spec["sources"])}


def _show(progress: Progress) -> None:
    left = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
    line = f"{progress.stage}: {progress.documents}/{progress.of} documents, {progress.chunks} chunks"
    print(f"{line}, {progress.rate:.0f} documents/s{left}", file=sys.stderr)  # noqa: T201 - progress of a command


def _sentence(result: JobResult) -> str:
    figures = ", ".join(f"{count} {name}" for name, count in asdict(result.counts).items())
    if result.state == "planned" and result.plan is not None:
        return f"would index {figures}: {result.plan.bytes:,} bytes, about {result.plan.seconds:.0f} s"
    version = f"version {result.index_version} serves" if result.index_version else "nothing is published"
    return f"{result.job_id}: {figures}; {result.chunks} chunks in {result.seconds:.1f} s; {version}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.indexing", description="Index a tenant's documents.")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--source", action="append", default=[], help="file, folder, glob or URL; may be repeated")
    parser.add_argument("--collection", default=DEFAULT_COLLECTION)
    parser.add_argument("--sync", action="store_true", help="also delete documents that are gone from these sources")
    parser.add_argument("--yes", action="store_true", help="confirm large deletions")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, change nothing")
    parser.add_argument("--untrusted", action="store_true", help="hold the sources to the platform's ingest.allow")
    parser.add_argument("--job-id", help="the job's name and idempotency key; under Ray its submission id")
    parser.add_argument("--submitted", metavar="JOB", help="like --job-id, for a job that is queued already")
    parser.add_argument("--resume", metavar="JOB", help="go on with a job that failed, was cancelled or killed")
    parser.add_argument("--data-dir", help="the platform's data dir; default FATHOM_DATA_DIR or ./.fathom")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
