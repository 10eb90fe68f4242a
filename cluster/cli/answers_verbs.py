"""`fathom answers`: a file of questions, answered offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.options import DataDir, Json, Rerank, RerankChoice, Tenant, read_settings
from cluster.cli.output import FAILURE, Output


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(answers)


def answers(
    tenant: Tenant,
    questions: Annotated[Path, typer.Argument(help="JSONL: _id, text.", metavar="FILE")],
    out: Annotated[
        Path | None, typer.Option(help="JSONL. [default: beside the questions, .answers.jsonl]", metavar="FILE")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="Who answers. [default: the tenant's own]", metavar="NAME")
    ] = None,
    rerank: Rerank = RerankChoice.auto,
    max_tokens: Annotated[int | None, typer.Option(help="Of one answer.", min=1)] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Answer a file of questions with a Ray Data job; the same command again goes on where it was cut short.

    Example: `fathom answers acme questions.jsonl`
    """
    from cluster.cli.answering import run_answers
    from jobs.answers.job import Ask, sentence

    target = out or questions.with_suffix(".answers.jsonl")
    report = run_answers(read_settings(data_dir), tenant, questions, target, Ask(generator, rerank.value, max_tokens))
    Output(json).result(report, sentence(report), f"MLflow run {report['run_id']}")
    if report["failed"]:
        raise typer.Exit(FAILURE)
