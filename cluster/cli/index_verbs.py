"""`fathom index | jobs | job | versions | rollback | erase`: what is published, and the work that publishes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cluster.cli.options import DataDir, Json, Tenant, Yes, read_settings
from cluster.cli.output import FAILURE, Output
from tenants.errors import InvalidInput

Sources = Annotated[list[str] | None, typer.Argument(help="Files, folders, globs or URLs.", metavar="SOURCE...")]
JobArgument = Annotated[str, typer.Argument(help="From `fathom index` or `fathom jobs`.", metavar="ID")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (index, jobs, job, versions, rollback, erase):
        app.command()(verb)


def index(
    tenant: Tenant,
    sources: Sources = None,
    collection: Annotated[str, typer.Option(help="The part of the corpus that the documents go into.")] = "default",
    sync: Annotated[bool, typer.Option("--sync", help="Also delete what is gone from these sources.")] = False,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    address: Annotated[
        str | None, typer.Option(help="Submit through the Ray Jobs API at http://HEAD:8265.", metavar="RAY")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="Continue a job that was cut short.", metavar="JOB")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Read documents into a tenant's index; unchanged ones cost nothing, readers see all of it or none.

    Example: `fathom index acme ./docs --sync`
    """
    from cluster.cli.indexing import Order, run_here, run_there

    if not sources and not resume:
        raise InvalidInput.field("/sources", "name at least one source: a file, a folder, a glob or a URL")
    order = Order(tenant, tuple(sources or ()), collection, sync, yes, dry_run, resume)
    settings = read_settings(data_dir)
    found = run_there(order, settings, address) if address else run_here(order, settings)
    Output(json).result(found, *_job_lines(found))


def jobs(tenant: Tenant, data_dir: DataDir = None, json: Json = False) -> None:
    """A tenant's indexing jobs, newest first.

    Example: `fathom jobs acme`
    """
    from cluster.cli.job_records import list_jobs

    found = list_jobs(read_settings(data_dir), tenant)
    columns = ("job_id", "state", "stage", "chunks", "index_version", "created_at", "error")
    Output(json).table({"jobs": found}, columns, [[one.get(column) for column in columns] for one in found])


def job(
    job_id: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Wait until it ended, showing its progress.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Ask it to stop; nothing of it is published.")] = False,
    tenant: Annotated[str | None, typer.Option(help="Its tenant; needed only with FATHOM_URL.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """One indexing job: state, counts, rate, time left, errors. With `--follow`, exit code 1 when it failed.

    Example: `fathom job job_1f09c2 --follow`
    """
    from cluster.cli.job_records import cancel_job, follow_job, read_job

    settings = read_settings(data_dir)
    if cancel:
        cancel_job(settings, job_id, tenant)
    found = follow_job(settings, job_id, tenant) if follow else read_job(settings, job_id, tenant)
    Output(json).result(found, *_job_lines(found))
    if follow and found["state"] == "failed":
        raise typer.Exit(FAILURE)


def versions(tenant: Tenant, data_dir: DataDir = None, json: Json = False) -> None:
    """Every published index version that can still be read, newest first.

    Example: `fathom versions acme`
    """
    from cluster.cli.published import list_versions

    found = list_versions(read_settings(data_dir), tenant)
    columns = ("index_version", "current", "published_at", "documents", "chunks", "tokens", "fingerprint")
    Output(json).table(found, columns, [[one.get(column) for column in columns] for one in found["versions"]])


def rollback(
    tenant: Tenant,
    to: Annotated[int | None, typer.Option(help="The version. [default: the one before]")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Publish an earlier index version again; erased documents never come back.

    Example: `fathom rollback acme --to 3`
    """
    from cluster.cli.published import roll_back

    found = roll_back(read_settings(data_dir), tenant, to)
    Output(json).result(found, f"{tenant} now answers from index version {found['index_version']}")


def erase(
    tenant: Tenant,
    documents: Annotated[list[str], typer.Argument(help="Document ids.", metavar="DOCUMENT_ID...")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Remove documents from every version, manifest and record; nothing brings them back.

    Example: `fathom erase acme letters/0001.pdf`
    """
    from cluster.cli.published import erase_documents

    found = erase_documents(read_settings(data_dir), tenant, documents)
    Output(json).result(found, f"erased {found['erased']}; {tenant} answers from version {found['index_version']}")


def _job_lines(found: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(f"{number} {name}" for name, number in found["documents"].items())
    lines = [f"{found['job_id']}  {found['state']}", f"  documents: {counts}"]
    if plan := found.get("plan"):
        lines.append(f"  to read:   {plan['bytes']:,} bytes in {plan['shards']} shards, about {plan['seconds']:.0f} s")
    lines.append(f"  chunks:    {found['chunks']}, tokens: {found['tokens']}, index version {found['index_version']}")
    if found.get("error"):
        lines.append(f"  error:     {found['error']}")
    return lines + [f"  {bad['document_id']}: {bad['code']}: {bad['message']}" for bad in found.get("errors", ())[:10]]
