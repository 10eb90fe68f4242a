"""`fathom audit`: the record of one query, its order redone, and whether the chain of records is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import DataDir, Json, Tenant, read_settings
from cluster.cli.output import FAILURE, Output


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(audit)


def audit(
    tenant: Tenant,
    query_id: Annotated[str, typer.Argument(help="From an answer's `query_id`.")],
    verify_chain: Annotated[bool, typer.Option("--verify-chain", help="Also check the tenant's whole chain.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Also redo the order from the record.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """What was asked, decided and answered, as it was recorded before the reply left.

    Example: `fathom audit acme q_0f3a --replay --verify-chain`
    """
    import yaml

    from cluster.cli.records import read_record, replay_of, verify_chain_of

    settings = read_settings(data_dir)
    record = read_record(settings, tenant, query_id)
    chain = verify_chain_of(settings, tenant) if verify_chain else None
    redone = replay_of(record) if replay else None
    document = record | ({"chain": chain} if chain else {}) | ({"replay": redone} if redone else {})
    Output(json).result(document, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).rstrip())
    if (chain and not chain["intact"]) or (redone and not redone["identical"]):
        raise typer.Exit(FAILURE)
