"""The platform's settings: environment over `fathom.yaml` over defaults. The only reader of the environment.

`load_settings` is called once per process, by its entry point, and the value is handed on. Every field says
its unit. `FATHOM_` + the field's name in capitals is its environment variable; nested fields use `__`, as in
`FATHOM_RETRIEVER__REPLICAS`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

MIB = 1024 * 1024
GeneratorName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
FOREIGN = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")  # would lead our processes to another Ray, or with another token


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Replicas(_Section):
    """One Serve deployment's size; `gpus` is the share of a GPU per replica, 0 = CPU."""

    min: int = Field(default=1, ge=0)
    max: int = Field(default=1, ge=1)
    cpus: float = Field(default=0.1, ge=0)
    gpus: float = Field(default=0, ge=0)
    target_ongoing: int = Field(default=8, ge=1)
    max_ongoing: int = Field(default=256, ge=1)
    max_queued: int = Field(default=256, ge=-1)


class Limits(_Section):
    """CONTRACT section 6."""

    body_bytes: int = 32 * MIB
    query_chars: int = 8_192
    top_k: int = 100
    file_bytes: int = 200 * MIB
    unpacked_bytes: int = 1024 * MIB
    unpack_ratio: int = 100
    archive_members: int = 10_000
    archive_nesting: int = 3
    parser_memory_bytes: int = 1024 * MIB
    parser_seconds: float = 60
    batch_documents: int = 1_000
    rerank_documents: int = 1_000  # of one …/rerank
    jobs_per_tenant: int = 4  # queued or running at once, of those that come over HTTP


class Retrieval(_Section):
    """One process that reads corpora; bytes are caps per process, all tenants together.

    `rows_bytes` keeps whole published versions in memory, least recently asked first out; a version larger than
    it is read from the index per question. `candidates` rows are taken from each leg.
    """

    candidates: int = Field(default=100, ge=1, le=1_000)
    leg_timeout_s: float = Field(default=5.0, gt=0)
    open_tables: int = Field(default=256, ge=1)
    rows_bytes: int = Field(default=768 * MIB, ge=0)
    index_cache_bytes: int = Field(default=256 * MIB, ge=0)
    metadata_cache_bytes: int = Field(default=64 * MIB, ge=0)
    embed_threads: int = Field(default=2, ge=1)  # questions encoded at once


class Reranking(_Section):
    """One process that scores pairs; the caps are per process, all tenants together.

    A model's queue holds `queue_pairs`; `batch_tokens` of both texts are computed at a time, so that a deadline is
    heeded between two batches (4,096 suit two cores, 65,536 a GPU). `models` may be loaded at once.
    """

    cache_bytes: int = Field(default=64 * MIB, ge=0)  # of remembered logits, in memory
    queue_pairs: int = Field(default=2_048, ge=1)
    batch_tokens: int = Field(default=4_096, ge=1)
    threads: int | None = Field(default=None, ge=1)  # of one model; default: cpu_threads
    models: int = Field(default=8, ge=1)
    alias_poll_s: float = Field(default=30, gt=0)  # how often `models:/name@alias` is looked up again


class GeneratorModel(_Section):
    """A generator of the platform: vLLM in this cluster, or any OpenAI-compatible server at `base_url`.

    `model` is a Hugging Face id, a folder, or the name that the server knows. `engine` are vLLM's own arguments, such
    as `max_model_len` or `tensor_parallel_size`; `replicas.gpus` 0 = on CPUs. A server's key is the environment
    variable `key_env`; `structured` says that it is a vLLM and holds answers to the citation grammar.
    `adapters` are the LoRA adapters of tenants, by their names: folders or hub ids.
    """

    model: str = Field(min_length=1)
    base_url: str | None = None
    key_env: str | None = None
    structured: bool = False
    replicas: Replicas = Replicas(cpus=1, target_ongoing=16, max_ongoing=64, max_queued=256)
    engine: dict[str, Any] = Field(default_factory=dict)
    adapters: dict[str, str] = Field(default_factory=dict)


class Ingest(_Section):
    """`allow` lists URL prefixes that a tenant may make the platform read over HTTP; none by default."""

    allow: tuple[str, ...] = ()


class Settings(BaseSettings):
    """Everything that differs between a laptop and a cluster."""

    model_config = SettingsConfigDict(
        env_prefix="FATHOM_",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    data_dir: str = "./.fathom"  # local folder for this machine's state: secrets, ports, logs
    data_root: str | None = None  # where tenants' data lies: a path or s3://…; default data_dir
    database_url: str | None = None  # control plane; default SQLite in data_dir
    audit_database_url: str | None = None  # audit log; default SQLite in data_dir, or database_url if PostgreSQL
    redis_url: str | None = None  # Redis or Valkey: logits that all replicas share; default: each remembers its own
    model_dir: str | None = None  # compiled models, shareable between platforms; default: in data_dir
    mlflow_tracking_uri: str | None = None  # default SQLite in data_dir; `off` tracks nothing
    admin_key: str | None = None
    pepper: str | None = None  # of the stored keys; default: a file in data_dir; shared by every node of a cluster
    url: str = "http://127.0.0.1:8000"
    api_key: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    ray_address: str | None = None
    topology: Literal["single", "split"] = "single"  # single: the gateway's process also retrieves and reranks
    haproxy: bool = True
    encoder_gpus: float = Field(default=1, gt=0, le=1)  # share of a GPU per encoder of an index job
    cpu_threads: int | None = None  # of one encoder; default: the machine's cores
    device: Literal["auto", "cpu", "cuda"] = "auto"
    request_timeout_s: float = 30
    write_timeout_s: float = 300  # of small batches, erasures, deletions: what writes an index
    gateway_slots: int = Field(default=8, ge=1)  # questions at work at once in one gateway replica: ~4 per core
    gateway_writes: int = Field(default=16, ge=1)  # small batches and the like at work at once in one gateway replica
    gateway: Replicas = Replicas()  # each of `min` grants its part of a tenant's rate; more replicas grant more
    retriever: Replicas = Replicas()
    indexer: Replicas = Replicas()
    reranker_small: Replicas = Replicas()
    reranker_large: Replicas = Replicas()
    retrieval: Retrieval = Retrieval()
    reranking: Reranking = Reranking()
    generators: dict[GeneratorName, GeneratorModel] = Field(default_factory=dict)  # by name; the first is `auto`'s
    generator_slots: int = Field(default=16, ge=1)  # answers that one gateway lets generators write at once
    experiment_poll_s: float = Field(default=15, gt=0)  # how often running experiments are looked at
    ingest: Ingest = Ingest()
    limits: Limits = Limits()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over file; `yaml_file` is set by `load_settings`."""
        return (init_settings, env_settings, YamlConfigSettingsSource(settings_cls))

    @property
    def root(self) -> str:
        """Where tenants' data lies, absolute."""
        return self.data_root or str(Path(self.data_dir).absolute())

    @property
    def secrets_dir(self) -> Path:
        """Where this platform's secrets lie, each a file of mode 0600."""
        return Path(self.data_dir).absolute() / "secrets"

    @property
    def control_url(self) -> str:
        """The control plane's database."""
        return self.database_url or f"sqlite:///{Path(self.data_dir).absolute()}/control.db"

    @property
    def audit_url(self) -> str:
        """The audit log's database: beside the control plane, in PostgreSQL the same one."""
        shared = self.database_url if (self.database_url or "").startswith("postgresql") else None
        return self.audit_database_url or shared or f"sqlite:///{Path(self.data_dir).absolute()}/audit.db"

    @property
    def model_cache(self) -> str:
        """Where compiled models lie on this machine, absolute."""
        return str(Path(self.model_dir or Path(self.data_dir) / "models").absolute())

    @property
    def mlflow_uri(self) -> str:
        """Where runs are tracked."""
        return self.mlflow_tracking_uri or f"sqlite:///{Path(self.data_dir).absolute()}/mlflow.db"

    @property
    def registry(self) -> str | None:
        """Where `models:/…` references are read from; None where MLflow is off."""
        return None if self.mlflow_tracking_uri == "off" else self.mlflow_uri


def load_settings(file: Path | None = None, **flags: Any) -> Settings:
    """Read the environment and `file` (default `fathom.yaml` in the working folder, if it exists).

    `flags` that are not None win over both. Raises `pydantic.ValidationError` naming the bad setting.
    """

    class _FromFile(Settings):
        model_config = SettingsConfigDict(yaml_file=file or Path("fathom.yaml"))

    return Settings.model_construct(**_values(_FromFile(**_given(flags))))


def setting_sources(file: Path | None = None, **flags: Any) -> dict[str, str]:
    """Where each setting's value comes from: `flag`, `environment`, `file` or `default`, by setting name."""
    path = file or Path("fathom.yaml")
    in_file = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    keys = {key.upper() for key in os.environ}

    def source(name: str) -> str:
        if flags.get(name) is not None:
            return "flag"
        variable = f"FATHOM_{name.upper()}"
        if any(key == variable or key.startswith(variable + "__") for key in keys):
            return "environment"
        return "file" if name in (in_file or {}) else "default"

    return {name: source(name) for name in Settings.model_fields}


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process of the platform: this one without `FATHOM_*` and `FOREIGN`, with `extra`.

    A child gets its settings from a file that holds every value; a variable left over would win over it.
    """
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith("FATHOM_")}
    return {**{key: value for key, value in kept.items() if key not in FOREIGN}, **extra}


def secret_of(variable: str | None) -> str:
    """The value of the environment variable that a configuration names, "" for none."""
    return os.environ.get(variable, "") if variable else ""


def adopt_environment(extra: Mapping[str, str], *, drop: Collection[str] = ()) -> None:
    """Set variables that a library reads when it is imported, and unset those of `drop`; for entry points only."""
    for name in drop:
        os.environ.pop(name, None)
    os.environ.update(extra)


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _values(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in type(settings).model_fields}
