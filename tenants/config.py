"""TenantConfig: what a tenant may choose, with a default for every key (CONTRACT section 4).

Frozen, validated at the door, unknown keys refused with the nearest known one named. Reads no file and no
environment; `parse_config` takes the text of a YAML or JSON document.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tenants.errors import FieldError, InvalidInput

Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]
Collection = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
SHARED = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?/[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"  # owner/collection
MAX_SHARED = 32
SharedName = Annotated[str, StringConstraints(pattern=SHARED)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Chunking(_Section):
    """Sizes in the embedder's tokens. A chunk longer than the embedder's window is embedded in windows."""

    tokens: int = Field(default=240, ge=16, le=768)
    overlap: int = Field(default=32, ge=0, le=256)


class Rerankers(_Section):
    """References of the two cross-encoders: builtin-*, Hugging Face id, path or `models:/name@alias`."""

    small: str = "builtin-small"
    large: str = "builtin-large"


class Rerank(_Section):
    """How much reranking the tenant wants; `price` null takes the certified one."""

    policy: Literal["auto", "always", "never"] = "auto"
    max_depth: int = Field(default=100, ge=0, le=1000)
    price: float | None = Field(default=None, ge=0)
    latency_budget_ms: int = Field(default=400, ge=1, le=60_000)
    criticality: Literal["casual", "standard", "high"] = "standard"


class Fusion(_Section):
    """Share of the dense list in the first stage's score; null takes what was learned of the tenant's corpus."""

    weight: float | None = Field(default=None, ge=0, le=1)


class OpenAIServer(_Section):
    """Any OpenAI-compatible server; `key_env` names the environment variable that holds its key."""

    base_url: str
    model: str
    key_env: str | None = None


class OpenAIGenerator(_Section):
    """`{openai: {...}}`."""

    openai: OpenAIServer


class Answer(_Section):
    """`evidence` passages are shown to the answerer.

    `instructions` are the tenant's own wishes to a generator, behind the house's rules; `unsupported` says what
    becomes of a generated sentence that no cited passage supports.
    """

    evidence: int = Field(default=6, ge=1, le=50)
    abstain: Literal["calibrated", "never"] = "calibrated"
    conflict: Literal["disclose", "ignore"] = "disclose"
    instructions: str = Field(default="", max_length=4_000)
    unsupported: Literal["drop", "mark"] = "drop"


class Sources(_Section):
    """`authority` maps a glob over document ids to a weight (1 = neutral, higher = more authoritative)."""

    authority: Mapping[str, Annotated[float, Field(gt=0, le=100)]] = Field(default_factory=dict)
    freshness_half_life_days: float | None = Field(default=None, gt=0)


class Quotas(_Section):
    """Null means no limit of the tenant's own."""

    requests_per_minute: int = Field(default=600, ge=1)
    concurrent: int = Field(default=32, ge=1)
    documents: int = Field(default=1_000_000, ge=0)
    index_bytes_per_day: int | None = Field(default=None, ge=0)
    rerank_pairs_per_minute: int | None = Field(default=None, ge=0)
    generator_tokens_per_minute: int | None = Field(default=None, ge=0)


class Audit(_Section):
    """`store_text: false` keeps digests only; older text is erased after `retention_days`."""

    store_text: bool = True
    retention_days: int = Field(default=90, ge=1)


class Feedback(_Section):
    """`pool: true` lets what the tenant's users judged train models that other tenants use, too."""

    pool: bool = False


class TenantConfig(_Section):
    """One tenant's configuration. `TenantConfig()` is a working default."""

    display_name: str = Field(default="", max_length=200)
    languages: tuple[Language, ...] = Field(default=("en",), min_length=1)
    chunking: Chunking = Chunking()
    embedder: str = Field(default="builtin", min_length=1)
    fusion: Fusion = Fusion()
    rerankers: Rerankers = Rerankers()
    rerank: Rerank = Rerank()
    generator: str | OpenAIGenerator = "auto"
    answer: Answer = Answer()
    sources: Sources = Sources()
    quotas: Quotas = Quotas()
    shared_collections: tuple[SharedName, ...] = Field(default=(), max_length=MAX_SHARED)
    audit: Audit = Audit()
    feedback: Feedback = Feedback()
    shadow_rate: float = Field(default=0.02, ge=0, le=1)


def parse_config(text: str) -> TenantConfig:
    """Read YAML or JSON text; raises `InvalidInput` naming every bad key, with the nearest known one."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"the configuration is not YAML or JSON: {_first_line(error)}") from None
    return validate_config({} if raw is None else raw)


def validate_config(raw: object) -> TenantConfig:
    """Check a decoded mapping; raises `InvalidInput` naming every bad key."""
    if not isinstance(raw, Mapping):
        raise InvalidInput.field("/", f"the configuration is a mapping, this is {type(raw).__name__}")
    try:
        return TenantConfig.model_validate(raw)
    except ValidationError as error:
        faults = tuple(_fault(item) for item in error.errors(include_url=False, include_input=False))
        raise InvalidInput("; ".join(f"{f.pointer}: {f.detail}" for f in faults), errors=faults) from None


def merged(config: TenantConfig, changes: Mapping[str, Any]) -> TenantConfig:
    """`config` with `changes` laid over it, section by section (RFC 7396: null restores the default)."""
    return validate_config(_merge(config.model_dump(mode="json", exclude_defaults=True), changes))


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = _merge(dict(result[key]), value)
        else:
            result[key] = value
    return result


def _fault(item: Any) -> FieldError:
    path = tuple(str(part) for part in item["loc"])
    pointer = "/" + "/".join(path)
    if item["type"] != "extra_forbidden":
        return FieldError(pointer, item["msg"])
    known = tuple(_known_keys())
    near = difflib.get_close_matches(path[-1], [key.rsplit(".", 1)[-1] for key in known], n=1)
    hint = next((key for key in known if near and key.rsplit(".", 1)[-1] == near[0]), None)
    return FieldError(pointer, "unknown key" + (f"; did you mean {hint}?" if hint else ""))


def _known_keys(model: type[BaseModel] = TenantConfig, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation, f"{prefix}{name}.")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
