"""`fathom train reranker`: train a cross-encoder of one's own, on labels, users' feedback or a teacher."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.options import DataDir, Json, read_settings
from cluster.cli.output import Output


class RoleChoice(StrEnum):
    """Which of a tenant's two rerankers."""

    small = "small"
    large = "large"


class EngineChoice(StrEnum):
    """What trains."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Folders = Annotated[
    list[str] | None,
    typer.Option(
        help="Labelled questions in the BEIR layout, or a sample of them. Repeat for several.",
        metavar="FOLDER[:QUESTIONS[:DOCUMENTS]]",
    ),
]
FromFeedback = Annotated[bool, typer.Option("--from-feedback", help="Learn from what users clicked and judged.")]
Tenants = Annotated[
    list[str] | None,
    typer.Option(help="Whose feedback. Repeat for several, which all must have `feedback.pool`.", metavar="NAME"),
]
Pooled = Annotated[bool, typer.Option("--pooled", help="Feedback of every tenant that has `feedback.pool`.")]


def build() -> typer.Typer:
    """The family as an app of its own."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
    app.callback()(_family)
    app.command()(reranker)
    return app


def _family() -> None:
    """Train models."""


def reranker(
    data: Folders = None,
    from_feedback: FromFeedback = False,
    tenant: Tenants = None,
    pooled: Pooled = False,
    role: Annotated[RoleChoice, typer.Option(help="Which of a tenant's two rerankers it is to be.")] = RoleChoice.large,
    base: Annotated[str, typer.Option(help="Encoder or cross-encoder to start from: a model reference.")] = "builtin",
    layers: Annotated[int | None, typer.Option(help="Keep so many of its layers.", min=1)] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Cross-encoder whose margins are learned, too: a model reference.")
    ] = None,
    dev: Annotated[
        list[str] | None, typer.Option(help="A folder that only measures.", metavar="FOLDER[:QUESTIONS]")
    ] = None,
    budget_minutes: Annotated[float, typer.Option(help="Wall clock of the training.", min=0.01)] = 60.0,
    steps: Annotated[int | None, typer.Option(help="Steps at most.", min=1)] = None,
    engine: Annotated[EngineChoice, typer.Option(help="What trains.")] = EngineChoice.auto,
    work: Annotated[Path, typer.Option(help="Folder of checkpoints and mined questions.")] = Path("training"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the work folder's checkpoint.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Train a cross-encoder and register it as `fathom-rerank-<role>@challenger`.

    From one tenant's feedback it becomes `fathom-rerank-<role>-<tenant>@challenger`, that tenant's alone.

    Example: `fathom train reranker --from-feedback --tenant acme --base builtin-large`
    """
    from cluster.cli.training import run_training
    from jobs.training.order import Order
    from jobs.training.reranker import sentences
    from jobs.training.sources import Sample

    order = Order(
        role=role.value,
        data=tuple(Sample.parse(one) for one in data or ()),
        dev=tuple(Sample.parse(one) for one in dev or ()),
        from_feedback=from_feedback,
        tenants=tuple(dict.fromkeys(tenant or ())),
        pooled=pooled,
        base=base,
        layers=layers,
        teacher=teacher,
        work=work,
        budget_minutes=budget_minutes,
        steps=steps,
        engine=engine.value,
        resume=resume,
    )
    output = Output(json)
    found = run_training(order, read_settings(data_dir), output.note)
    output.result(found, *sentences(found))
