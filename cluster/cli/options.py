"""The options that every verb takes, and what they open."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenants.errors import InvalidInput

if TYPE_CHECKING:
    from services.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The platform's folder. [default: FATHOM_DATA_DIR or ./.fathom]", metavar="DIR"),
]
Tenant = Annotated[str, typer.Argument(help="The tenant's name.")]


class RerankChoice(StrEnum):
    """Whether a question is reranked."""

    auto = "auto"
    always = "always"
    never = "never"


class ModeChoice(StrEnum):
    """Which legs are searched."""

    hybrid = "hybrid"
    dense = "dense"
    sparse = "sparse"


Rerank = Annotated[RerankChoice, typer.Option(help="Whether to rerank.")]
Mode = Annotated[ModeChoice, typer.Option(help="Which legs to search.")]
Yes = Annotated[bool, typer.Option("--yes", help="Confirm what cannot be undone.")]


def read_settings(data_dir: Path | None, config: Path | None = None, **flags: Any) -> Settings:
    """The platform's settings with this call's flags on top. Raises `InvalidInput` naming the bad setting."""
    # Loaded here: `fathom --help` answers without pydantic.
    from pydantic import ValidationError

    from services.settings import load_settings

    if config is not None and not config.is_file():
        raise InvalidInput.field("/config", f"there is no file {config}")
    try:
        return load_settings(config, data_dir=str(data_dir) if data_dir else None, **flags)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidInput(f"bad setting {faults}") from None


def read_document(path: Path | None) -> Mapping[str, Any]:
    """A tenant's configuration file (YAML or JSON), checked; without one the empty mapping."""
    if path is None:
        return {}
    import yaml

    from tenants.config import parse_config

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput.field("/config", f"{path} cannot be read: {error}") from None
    parse_config(text)
    raw = yaml.safe_load(text)
    return dict(raw) if raw else {}
