"""`fathom ab create | list | show | ramp | compare | stop | promote | rollback | delete | improve`: experiments."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.compare_verb import compare
from cluster.cli.improve_verb import improve
from cluster.cli.options import DataDir, Json, Yes, read_settings
from cluster.cli.output import Output
from tenants.errors import InvalidInput

if TYPE_CHECKING:
    from services.gateway.ports import Desk

ACTOR = "operator"
Name = Annotated[str, typer.Argument(help="The experiment's name.")]


class KindChoice(StrEnum):
    """How arms are compared."""

    ab = "ab"
    interleaving = "interleaving"
    shadow = "shadow"


class UnitChoice(StrEnum):
    """What keeps its arm."""

    user = "user"
    session = "session"
    tenant = "tenant"
    request = "request"


def build() -> typer.Typer:
    """The family as an app of its own."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
    for verb in (create, show, ramp, compare, stop, promote, rollback, delete, improve):
        app.command()(verb)
    app.command("list")(list_experiments)
    return app


def create(
    name: Name,
    tenant: Annotated[list[str] | None, typer.Option(help="Whose questions; repeat for several.")] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="A variant: its name and what it changes, as a YAML or JSON file or as JSON. Repeat for several; "
            "the control, what is served today, stands before them.",
            metavar="NAME=OVERRIDES",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The whole experiment as YAML or JSON; options win.", metavar="FILE")
    ] = None,
    kind: Annotated[KindChoice | None, typer.Option(help="How arms are compared. [default: ab]")] = None,
    metric: Annotated[str | None, typer.Option(help="What decides. [default: clicked]")] = None,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(help="Stops an arm that is worse by more than this share.", metavar="METRIC=TOLERANCE"),
    ] = None,
    unit: Annotated[UnitChoice | None, typer.Option(help="What keeps its arm. [default: user]")] = None,
    ramp: Annotated[float | None, typer.Option(help="Share of units that take part.", min=0, max=1)] = None,
    holdout: Annotated[float | None, typer.Option(help="Share that never takes part.", min=0, max=0.99)] = None,
    window: Annotated[float | None, typer.Option(help="Seconds that a unit is watched. [default: 1800]", min=0)] = None,
    minimum_effect: Annotated[float | None, typer.Option(help="Smallest relative effect worth finding.")] = None,
    planned: Annotated[int | None, typer.Option(help="Units to decide by. [default: computed]", min=2)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it and say how many units it needs.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Start an experiment: from now on each user meets one arm, and keeps it.

    Example: `fathom ab create cheaper --tenant acme --arm cheap='{"rerank": {"price": 0.4}}' --guardrail answer_ms=0.1`
    """
    given = {
        "kind": kind and kind.value,
        "metric": metric,
        "unit": unit and unit.value,
        "ramp": ramp,
        "holdout": holdout,
        "window_s": window,
        "minimum_effect": minimum_effect,
        "planned": planned,
        "tenants": tenant,
        "guardrails": [_guardrail(one) for one in guardrail] if guardrail else None,
        "arms": [{"name": "control"}, *(_arm(one) for one in arm)] if arm else None,
    }
    spec = {**_read(config), "name": name, **{key: value for key, value in given.items() if value is not None}}
    made = _desk(data_dir).create(spec, ACTOR, dry_run=dry_run)
    Output(json).result(made, *_created(made))


def list_experiments(data_dir: DataDir = None, json: Json = False) -> None:
    """Every experiment, newest first.

    Example: `fathom ab list`
    """
    found = _desk(data_dir).experiments()
    rows = [
        (
            one["name"],
            one["state"],
            one["spec"]["kind"],
            " ".join(one["tenants"]),
            _outcome(one),
            one["created_at"][:19],
        )
        for one in found
    ]
    Output(json).table(list(found), ("name", "state", "kind", "tenants", "outcome", "created"), rows)


def show(name: Name, data_dir: DataDir = None, json: Json = False) -> None:
    """How an experiment stands: verdict, effects with intervals that hold at every look, its sequence as a drawing.

    Example: `fathom ab show cheaper`
    """
    from cluster.cli.ab_drawing import lines_of

    found = _desk(data_dir).show(name)
    Output(json).result(found, *([] if json else lines_of(found)))


def ramp(
    name: Name,
    share: Annotated[float, typer.Argument(help="Share of units that take part from now on.", min=0, max=1)],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Let more units, or fewer, take part; nobody changes arms.

    Example: `fathom ab ramp cheaper 0.5`
    """
    changed = _desk(data_dir).set_ramp(name, share, ACTOR)
    Output(json).result(changed, f"{share:.0%} of the units take part in {name}")


def stop(
    name: Name,
    why: Annotated[str, typer.Option(help="Kept with the outcome.")] = "",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """End an experiment; what served before answers everybody again.

    Example: `fathom ab stop cheaper --why "the quarter ends"`
    """
    ended = _desk(data_dir).stop(name, ACTOR, why)
    Output(json).result(ended, f"{name} is stopped", ended["outcome"]["verdict"]["reason"])


def promote(
    name: Name,
    arm: Annotated[str | None, typer.Option(help="The arm. [default: the one that is better]")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Serve an arm to everybody once its models are warm, move MLflow's `champion`, and end the experiment.

    Example: `fathom ab promote cheaper --arm cheap`
    """
    ended = _desk(data_dir).promote(name, ACTOR, arm)
    served = ended["outcome"]["arm"]
    arms = {one["name"]: one["overrides"] for one in ended["spec"]["arms"]}
    lines = [f"{name}/{served} serves {' '.join(ended['tenants'])}"]
    if "rerankers" in arms[served]:
        lines.append("its cross-encoder is asked for every candidate until `fathom calibrate` certifies it")
    Output(json).result(ended, *lines)


def rollback(name: Name, data_dir: DataDir = None, json: Json = False) -> None:
    """Serve again what served before an experiment was promoted.

    Example: `fathom ab rollback cheaper`
    """
    changed = _desk(data_dir).rollback(name, ACTOR)
    Output(json).result(changed, f"{name} is rolled back for {' '.join(changed['tenants'])}")


def delete(name: Name, yes: Yes = False, data_dir: DataDir = None, json: Json = False) -> None:
    """Forget an experiment that has ended; what was promoted stays, and so does what MLflow holds.

    Example: `fathom ab delete cheaper --yes`
    """
    if not yes:
        raise InvalidInput("its outcome and its spec are gone afterwards; say --yes")
    Output(json).result(_desk(data_dir).delete(name), f"{name} is deleted")


def _desk(data_dir: Path | None) -> Desk:
    from cluster.cli.experimenter import experimenter

    return experimenter(read_settings(data_dir))


def _read(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    return _mapping(_text(path), "/config")


def _arm(given: str) -> dict[str, Any]:
    name, _, told = given.partition("=")
    if not name or not told:
        raise InvalidInput.field("/arm", f"{given} is no NAME=OVERRIDES, such as cheap=cheap.yaml")
    text = told if told.lstrip().startswith("{") else _text(Path(told))
    return {"name": name, "overrides": _mapping(text, "/arm")}


def _guardrail(given: str) -> dict[str, Any]:
    from services.experiments.spec import parse_guardrail

    metric, tolerance = parse_guardrail(given)
    return {"metric": metric, "tolerance": tolerance}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from None


def _mapping(text: str, pointer: str) -> dict[str, Any]:
    import yaml

    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError:
        raw = None
    if not isinstance(raw, dict):
        raise InvalidInput.field(pointer, "this is no YAML or JSON mapping")
    return raw


def _created(made: Mapping[str, Any]) -> list[str]:
    plan = made.get("plan") or {}
    size = f"{plan['planned']:,} units" if plan.get("planned") else "a size that the first 200 units will tell"
    days = f", about {plan['days_needed']:g} days of this traffic" if plan.get("days_needed") else ""
    seen = f"planned from {plan.get('units_seen', 0):,} units of the last {plan.get('days', 0):g} days"
    head = f"{made['name']} is checked" if made["state"] == "planned" else f"{made['name']} runs"
    return [f"{head}: {size}{days} ({seen})", f"look at it whenever you like: fathom ab show {made['name']}"]


def _outcome(one: Mapping[str, Any]) -> str:
    outcome = one["outcome"] or {}
    return " ".join(str(outcome[key]) for key in ("word", "arm") if outcome.get(key))
