"""`fathom tenant create | list | show | update | suspend | resume | delete`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import DataDir, Json, Tenant, Yes, read_document, read_settings
from cluster.cli.output import Output
from tenants.errors import NeedsConfirmation

if TYPE_CHECKING:
    from cluster.cli.operator import Operator

Config = Annotated[Path | None, typer.Option("--config", help="Configuration, YAML or JSON.", metavar="FILE")]
RequiredConfig = Annotated[Path, typer.Option("--config", help="Changes, YAML or JSON.", metavar="FILE")]


def build() -> typer.Typer:
    """The family as an app of its own."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
    app.command()(create)
    app.command("list")(list_tenants)
    for verb in (show, update, suspend, resume, delete):
        app.command()(verb)
    return app


def create(name: Tenant, config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Make a tenant and an admin key of it; the key is shown once.

    Example: `fathom tenant create acme --config acme.yaml`
    """
    made = _operator(data_dir).create_tenant(name, read_document(config))
    Output(json).result(made, f"tenant   {made['tenant']}", f"api_key  {made['api_key']}   (shown once: keep it)")


def list_tenants(data_dir: DataDir = None, json: Json = False) -> None:
    """Every tenant and its state.

    Example: `fathom tenant list`
    """
    found = _operator(data_dir).tenants()
    rows = [(one["tenant"], one["state"], one["created_at"]) for one in found]
    Output(json).table({"tenants": found}, ("tenant", "state", "created"), rows)


def show(name: Tenant, data_dir: DataDir = None, json: Json = False) -> None:
    """One tenant with every value of its configuration.

    Example: `fathom tenant show acme --json`
    """
    _show(_operator(data_dir).tenant(name), as_json=json)


def update(name: Tenant, config: RequiredConfig, data_dir: DataDir = None, json: Json = False) -> None:
    """Lay a file's keys over the tenant's configuration; null restores a default.

    Example: `fathom tenant update acme --config changes.yaml`
    """
    _show(_operator(data_dir).update_tenant(name, {"config": read_document(config)}), as_json=json)


def suspend(name: Tenant, data_dir: DataDir = None, json: Json = False) -> None:
    """Refuse the tenant's keys (403) until `resume`; nothing is deleted.

    Example: `fathom tenant suspend acme`
    """
    found = _operator(data_dir).update_tenant(name, {"state": "suspended"})
    Output(json).result(found, f"{name} is suspended")


def resume(name: Tenant, data_dir: DataDir = None, json: Json = False) -> None:
    """Let a suspended tenant work again.

    Example: `fathom tenant resume acme`
    """
    found = _operator(data_dir).update_tenant(name, {"state": "active"})
    Output(json).result(found, f"{name} is active")


def delete(name: Tenant, yes: Yes = False, data_dir: DataDir = None, json: Json = False) -> None:
    """Remove a tenant, its keys, index, jobs and records; nothing of it is left.

    Example: `fathom tenant delete acme --yes`
    """
    if not yes:
        raise NeedsConfirmation(f"deleting {name} cannot be undone; repeat with --yes")
    _operator(data_dir).delete_tenant(name)
    Output(json).result({"tenant": name, "deleted": True}, f"{name} is deleted")


def _operator(data_dir: Path | None) -> Operator:
    from cluster.cli.operator import operator

    return operator(read_settings(data_dir))


def _show(document: dict[str, object], *, as_json: bool) -> None:
    import yaml

    Output(as_json).result(document, yaml.safe_dump(document, sort_keys=False).rstrip())
