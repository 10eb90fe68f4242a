"""`fathom share grant | list | revoke`: collections that one tenant lets another search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import DataDir, Json, Tenant, read_settings
from cluster.cli.output import Output

if TYPE_CHECKING:
    from cluster.cli.operator import Operator

Owner = Annotated[str, typer.Argument(help="The tenant that owns the collection.")]
Collection = Annotated[str, typer.Argument(help="The collection, as its documents were indexed into it.")]
Subscriber = Annotated[str, typer.Argument(help="The tenant that may search it.")]


def build() -> typer.Typer:
    """The family as an app of its own."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
    app.command()(grant)
    app.command("list")(list_shares)
    app.command()(revoke)
    return app


def grant(
    owner: Owner, collection: Collection, subscriber: Subscriber, data_dir: DataDir = None, json: Json = False
) -> None:
    """Let a tenant search a collection of another one, read only; it then names it in `shared_collections`.

    Example: `fathom share grant library manuals acme`
    """
    made = _operator(data_dir).grant(owner, collection, subscriber)
    how = f"{subscriber} searches it once its configuration says shared_collections: [{made['name']}]"
    Output(json).result(made, f"{made['name']} is shared with {subscriber}", how)


def list_shares(tenant: Tenant, data_dir: DataDir = None, json: Json = False) -> None:
    """What a tenant shares with others, and what others share with it.

    Example: `fathom share list library`
    """
    found = _operator(data_dir).shares(tenant)
    rows = [(one["name"], one["subscriber"], one["created_at"]) for one in (*found["given"], *found["received"])]
    Output(json).table(found, ("collection", "subscriber", "created"), rows)


def revoke(
    owner: Owner, collection: Collection, subscriber: Subscriber, data_dir: DataDir = None, json: Json = False
) -> None:
    """End a grant; the subscriber's next question no longer reads the collection.

    Example: `fathom share revoke library manuals acme`
    """
    _operator(data_dir).revoke_grant(owner, collection, subscriber)
    name = f"{owner}/{collection}"
    revoked = {"name": name, "subscriber": subscriber, "revoked": True}
    Output(json).result(revoked, f"{name} is no longer shared with {subscriber}")


def _operator(data_dir: Path | None) -> Operator:
    from cluster.cli.operator import operator

    return operator(read_settings(data_dir))
