"""`fathom bench …`: measure the running platform from outside."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import DataDir, Json, Rerank, RerankChoice, read_settings
from cluster.cli.output import Output


def build() -> typer.Typer:
    """The family as an app of its own."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
    app.callback()(_family)
    app.command()(search)
    return app


def _family() -> None:
    """Measure this platform."""


def search(
    tenants: Annotated[int, typer.Option(help="How many tenants.", min=1)] = 1,
    chunks: Annotated[int, typer.Option(help="Chunks per tenant.", min=1)] = 50_000,
    concurrency: Annotated[list[int] | None, typer.Option(help="Repeat for several. [default: 1 and 32]")] = None,
    requests: Annotated[int, typer.Option(help="Searches per concurrency.", min=1)] = 2_000,
    rerank: Rerank = RerankChoice.never,
    keep: Annotated[bool, typer.Option(help="Leave the tenants for the next run, which then only asks.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Latency and rate of searches over a synthetic corpus, with the time of each stage.

    Example: `fathom bench search --tenants 100 --chunks 500`
    """
    from cluster.bench.platform import running_platform
    from cluster.bench.search import bench_search

    output = Output(json)
    report = bench_search(
        running_platform(read_settings(data_dir).data_dir),
        tenants=tenants,
        chunks=chunks,
        concurrency=concurrency or [1, 32],
        requests=requests,
        rerank=rerank.value,
        keep=keep,
        report=output.note,
    )
    rows = [[level, *run.values()] for level, run in report["runs"].items()]
    columns = ["concurrency", *next(iter(report["runs"].values()))]
    output.table(report, columns, rows)
