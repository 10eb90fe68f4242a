"""`fathom ab compare`: two variants over the same labelled questions, before any user meets one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.options import DataDir, Json, Rerank, RerankChoice, read_settings
from cluster.cli.output import Output

COLUMNS = ("metric", "A", "B", "difference", "95 % interval", "p (Holm)", "wins/losses")
TEXT_CHARS = 100
VARIANT = "`champion` (as served), a YAML or JSON file of overrides, or EXPERIMENT/ARM."


def compare(
    a: Annotated[str, typer.Argument(help=f"The one side: {VARIANT}", metavar="A")],
    b: Annotated[str, typer.Argument(help="The other side, the same.", metavar="B")],
    tenant: Annotated[str, typer.Option(help="The tenant's name.", metavar="NAME")],
    queries: Annotated[Path, typer.Option(help="JSONL: _id, text.", metavar="FILE")],
    qrels: Annotated[Path, typer.Option(help="TSV: query-id, corpus-id, score.", metavar="FILE")],
    rerank: Rerank = RerankChoice.auto,
    k: Annotated[int, typer.Option("--k", help="Cut-off of nDCG and MRR.", min=1, max=100)] = 10,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.", min=1)] = None,
    answers: Annotated[bool, typer.Option("--answers", help="Also answer, each side with its own generator.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the page there, as HTML.", metavar="FILE")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Ask both variants every labelled question: which is better, how sure that is, what it costs; logged to MLflow.

    Differences are B − A; a win is a question where B is better.

    Example: `fathom ab compare champion cheaper.yaml --tenant acme --queries queries.jsonl --qrels qrels.tsv`
    """
    from cluster.cli.comparing import run_comparison
    from jobs.evaluation.pipeline import Plan

    plan = Plan(rerank=rerank.value, k=k, limit=limit, answers=answers)
    document = run_comparison(read_settings(data_dir), (a, b), tenant, queries, qrels, plan, report)
    show(Output(json), document)


def show(output: Output, document: dict[str, Any]) -> None:
    """The table between what was compared and what came out; or the document alone."""
    if output.as_json:
        output.result(document)
        return
    output.result(document, *(_side(place, document[place]) for place in ("a", "b")), "")
    output.table(document, COLUMNS, rows_of(document))
    output.result(document, "", *lines_of(document))


def rows_of(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a metric, then one a cost, whose p belongs to no family of claims."""
    from jobs.experiments.report import NOTHING, interval, number, p_value, signed

    return [
        (
            name,
            number(line["a"]),
            number(line["b"]),
            signed(line["difference"]),
            interval(line["lower"], line["upper"]),
            p_value(line["p_holm"]) if "p_holm" in line else NOTHING,
            f"{line['wins']}/{line['losses']}",
        )
        for name, line in (document["metrics"] | document["costs"]).items()
    ]


def lines_of(document: dict[str, Any]) -> list[str]:
    """The verdict, what to know of it, and the questions that moved most."""
    lines = [document["verdict"]["claim"], document["verdict"]["reason"], *document["notes"]]
    metric = next(iter(document["metrics"]))
    for title, part in ((f"greatest wins of B by {metric}", "gains"), (f"greatest losses of B by {metric}", "losses")):
        if document[part]:
            lines += ["", title, *(_question(row) for row in document[part])]
    return [*lines, "", f"{document['queries']} questions; MLflow run {document['run_id']}"]


def _side(place: str, side: dict[str, Any]) -> str:
    changes = ", ".join(f"{one['key']} {one['before']} → {one['after']}" for one in side["changes"])
    return f"{place.upper()}  {side['name']}: {changes or 'as it is served'}"


def _question(row: dict[str, Any]) -> str:
    from jobs.experiments.report import number, signed

    text = " ".join("".join(char if char.isprintable() else " " for char in row["text"]).split())
    shown = text if len(text) <= TEXT_CHARS else f"{text[: TEXT_CHARS - 1]}…"
    return f"  {signed(row['difference'])}  {number(row['a'])} → {number(row['b'])}  {row['query']}: {shown}"
