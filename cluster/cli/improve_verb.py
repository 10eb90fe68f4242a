"""`fathom ab improve`: one pass of the loop from clicks to a better reranker, on the running platform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.options import DataDir, Json, Tenant, read_settings
from cluster.cli.output import Output
from cluster.cli.train_verbs import RoleChoice


def improve(
    tenant: Tenant,
    role: Annotated[RoleChoice, typer.Option(help="Which of its two rerankers.")] = RoleChoice.large,
    feedback: Annotated[int, typer.Option(help="Judgements that a round needs.", min=1)] = 300,
    gain: Annotated[float, typer.Option(help="Of nDCG@10 on held-out clicks, at least.")] = 0.005,
    budget_minutes: Annotated[float, typer.Option(help="Wall clock of the training.", min=0.01)] = 60.0,
    frozen_layers: Annotated[int, typer.Option(help="Layers that are not trained, from below.", min=0)] = 0,
    certify_on: Annotated[int, typer.Option(help="Clicked questions to certify on at most.", min=3)] = 1_000,
    work: Annotated[Path, typer.Option(help="Folder of checkpoints and mined questions.")] = Path("training"),
    metric: Annotated[str, typer.Option(help="What decides the A/B test.")] = "click_rank",
    guardrail: Annotated[list[str] | None, typer.Option(metavar="METRIC=TOLERANCE")] = None,
    ramp: Annotated[float, typer.Option(help="Share of units that take part.", min=0, max=1)] = 1.0,
    window_s: Annotated[float, typer.Option("--window", help="Seconds that a unit is watched.", min=0)] = 1_800.0,
    planned: Annotated[int | None, typer.Option(help="Units to decide by. [default: computed]", min=2)] = None,
    minimum_effect: Annotated[float, typer.Option(help="Smallest relative effect worth finding.")] = 0.03,
    wait: Annotated[bool, typer.Option("--wait", help="Go on until the round is over.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Do what is due for a better reranker: train on clicks, certify, try on users, promote or reject; then say why.

    A scheduler calls it again and again: each pass ends where something must be waited for.

    Example: `fathom ab improve acme --budget-minutes 30`
    """
    from argparse import Namespace

    from cluster.cli.attaching import attached

    settings = attached(read_settings(data_dir))
    # Loaded after the environment is set: Ray reads it at import.
    from jobs.experiments.__main__ import improve as advanced

    options = Namespace(
        tenant=tenant,
        role=role.value,
        feedback=feedback,
        gain=gain,
        budget_minutes=budget_minutes,
        frozen_layers=frozen_layers,
        certify_on=certify_on,
        work=work,
        metric=metric,
        guardrail=guardrail or [],
        ramp=ramp,
        window_s=window_s,
        planned=planned,
        minimum_effect=minimum_effect,
        wait=wait,
    )
    step = advanced(options, settings)
    Output(json).result(step.to_json(), f"{step.stage}: {step.reason}")
