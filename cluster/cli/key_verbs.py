"""`fathom key create | list | revoke`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import DataDir, Json, Tenant, read_settings
from cluster.cli.output import Output

if TYPE_CHECKING:
    from cluster.cli.operator import Operator


def build() -> typer.Typer:
    """The family as an app of its own."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
    app.command()(create)
    app.command("list")(list_keys)
    app.command()(revoke)
    return app


def create(
    tenant: Tenant,
    scope: Annotated[str, typer.Option(help="query, index (also writes) or admin.")] = "query",
    expires: Annotated[str | None, typer.Option(help="90d, 12h or a date; never when left out.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make an API key; it is shown once.

    Example: `fathom key create acme --scope query --expires 90d`
    """
    made = _operator(data_dir).create_key(tenant, scope, expires)
    Output(json).result(made, f"api_key  {made['api_key']}   (shown once: keep it)", f"key_id   {made['key_id']}")


def list_keys(tenant: Tenant, data_dir: DataDir = None, json: Json = False) -> None:
    """Every key of a tenant, without its secret.

    Example: `fathom key list acme`
    """
    found = _operator(data_dir).keys(tenant)
    columns = ("key_id", "scope", "created_at", "expires_at", "revoked_at")
    Output(json).table({"keys": found}, columns, [[one.get(column) for column in columns] for one in found])


def revoke(
    tenant: Tenant,
    key_id: Annotated[str, typer.Argument(help="From `fathom key list`.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Stop a key; it takes effect within a second.

    Example: `fathom key revoke acme 5f0c2a917d3e`
    """
    _operator(data_dir).revoke_key(tenant, key_id)
    Output(json).result({"tenant": tenant, "key_id": key_id, "revoked": True}, f"{key_id} is revoked")


def _operator(data_dir: Path | None) -> Operator:
    from cluster.cli.operator import operator

    return operator(read_settings(data_dir))
