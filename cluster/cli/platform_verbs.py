"""`fathom up | down | status | doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.options import DataDir, Json, read_settings
from cluster.cli.output import FAILURE, Output


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(doctor)


def up(
    config: Annotated[Path | None, typer.Option(help="Settings file. [default: fathom.yaml]", metavar="FILE")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port. [default: 8000 if free]", min=1, max=65535)] = None,
    data_dir: DataDir = None,
    generator: Annotated[
        str | None, typer.Option(help="A model for vLLM: hub id or folder; `extractive` = none.", metavar="MODEL")
    ] = None,
    json: Json = False,
) -> None:
    """Start everything on this machine; returns when /readyz is 200.

    Example: `fathom up --generator Qwen/Qwen2.5-7B-Instruct`
    """
    from cluster import local
    from cluster.generators import with_generator
    from services.settings import setting_sources

    output = Output(json)
    settings = with_generator(read_settings(data_dir, config, port=port), generator)
    asked = setting_sources(config, port=port)["port"] != "default"
    info = local.up(settings, port_asked=asked, report=output.note)
    document = info.document()
    output.result(document, *(f"{name:<12} {value}" for name, value in document.items() if value))


def down(data_dir: DataDir = None, json: Json = False) -> None:
    """Stop everything that `up` started, also after a crash.

    Example: `fathom down`
    """
    from cluster import local

    settings = read_settings(data_dir)
    stopped = local.down(settings.data_dir)
    Output(json).result(
        {"stopped": stopped, "data_dir": str(Path(settings.data_dir).absolute())},
        f"stopped {stopped} processes" if stopped else "nothing was running",
    )


def status(data_dir: DataDir = None, json: Json = False) -> None:
    """Every component: is it up, which version, how much memory. Exit code 1 when one is not ready.

    Example: `fathom status --json`
    """
    from cluster.status import platform_status

    report = platform_status(read_settings(data_dir))
    rows = [
        (
            part["name"],
            "ready" if part["ready"] else "off" if part["optional"] else "DOWN",
            part["version"],
            part["detail"],
        )
        for part in report["components"]
    ]
    Output(json).table(report, ("component", "state", "version", ""), rows)
    if not report["ready"]:
        raise typer.Exit(FAILURE)


def doctor(
    config: Annotated[Path | None, typer.Option(help="Settings file. [default: fathom.yaml]", metavar="FILE")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Every setting with its source, and what is wrong with this machine, with the mend. Exit code 1 then.

    Example: `fathom doctor`
    """
    from cluster.doctor import examine

    report = examine(read_settings(data_dir, config), config, data_dir=data_dir)
    output = Output(json)
    if not json:
        output.table(None, ("setting", "value", "source"), [tuple(row.values()) for row in report["settings"]])
    rows = [(check["name"], "ok" if check["ok"] else "WRONG", check["detail"]) for check in report["checks"]]
    output.table(report, ("check", "", "detail"), rows)
    if not report["ok"]:
        raise typer.Exit(FAILURE)
