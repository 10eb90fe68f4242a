"""`fathom eval`: a labelled set through the very line that serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.options import DataDir, Json, Rerank, RerankChoice, Tenant, read_settings
from cluster.cli.output import Output


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("eval")(evaluate)


def evaluate(
    tenant: Tenant,
    queries: Annotated[Path, typer.Option(help="JSONL: _id, text.", metavar="FILE")],
    qrels: Annotated[Path, typer.Option(help="TSV: query-id, corpus-id, score.", metavar="FILE")],
    rerank: Rerank = RerankChoice.auto,
    depth: Annotated[int | None, typer.Option(help="Candidates to rerank at most.", min=1)] = None,
    k: Annotated[int, typer.Option("--k", help="Cut-off of nDCG and MRR.", min=1, max=100)] = 10,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.", min=1)] = None,
    answers: Annotated[bool, typer.Option("--answers", help="Also answer, and check the citations.")] = False,
    generator: Annotated[
        list[str] | None,
        typer.Option(help="Who answers; repeat it to compare. [default: the tenant's own]", metavar="NAME"),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """nDCG, recall, MRR and MAP of a tenant's search on labelled questions; logged to MLflow.

    With answers: gold answers (`answers` in a question's line) by exact match and F1, citations, abstention, times.

    Example: `fathom eval acme --queries queries.jsonl --qrels qrels.tsv --answers --generator extractive`
    """
    from cluster.cli.evaluation import run_evaluation
    from jobs.evaluation.pipeline import Plan

    plan = Plan(rerank=rerank.value, depth=depth, k=k, limit=limit, answers=answers or bool(generator))
    plan = replace(plan, generators=tuple(generator or plan.generators))
    report = run_evaluation(read_settings(data_dir), tenant, queries, qrels, plan)
    lines = [f"{name:<12} {value:.4f}" for name, value in report["metrics"].items()]
    latency = ", ".join(f"{name} {value:.0f} ms" for name, value in report["latency_ms"].items())
    for name, figures in report.get("answer_metrics", {}).items():
        lines += ["", f"answers by {name}", *(f"  {figure:<20} {value:.4f}" for figure, value in figures.items())]
    Output(json).result(report, *lines, f"{report['queries']} questions; {latency}; MLflow run {report['run_id']}")
