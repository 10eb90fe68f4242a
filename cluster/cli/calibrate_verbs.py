"""`fathom calibrate`: how cheap a tenant's reranking may be, proved on its own questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.options import DataDir, Json, Tenant, read_settings
from cluster.cli.output import Output


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(calibrate)


def calibrate(
    tenant: Tenant,
    queries: Annotated[Path | None, typer.Option(help="JSONL: _id, text.", metavar="FILE")] = None,
    qrels: Annotated[Path | None, typer.Option(help="TSV: query-id, corpus-id, score.", metavar="FILE")] = None,
    from_feedback: Annotated[
        bool, typer.Option("--from-feedback", help="On its users' clicks and judgements.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.", min=1)] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Fit and certify a tenant's adaptive reranking; logged to MLflow, live within seconds.

    Without files the questions are those of the audit, and what is bounded is the disagreement with the full rerank.

    Example: `fathom calibrate acme --queries queries.jsonl --qrels qrels.tsv`
    """
    from cluster.cli.calibration import run_calibration

    report = run_calibration(read_settings(data_dir), tenant, queries, qrels, limit, from_feedback=from_feedback)
    Output(json).result(report, *lines_of(report))


def lines_of(report: dict[str, Any]) -> list[str]:
    """What a person reads."""
    lines = [report["message"]]
    if report["certificate"]:
        expires = str(report["expires"])[:10]
        lines.append(f"certificate {report['certificate']} ({report['source']}, {report['group']}), until {expires}")
    pairs = report["pairs"]
    if "certified" in pairs:
        lines.append(f"pairs a question: {pairs['certified']:.1f} instead of {pairs['full']:.1f}")
    told = f"; calibration error {report['ece']:.3f}" if report["ece"] is not None else ""
    return [*lines, f"{report['questions']} questions{told}; MLflow run {report['run_id']}"]
