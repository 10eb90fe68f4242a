"""A tenant, its store and settings in a temporary folder; jobs run inline with the hashing embedder."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.indexing.batches import BatchWriter
from jobs.indexing.driver import run_job
from jobs.indexing.job import IndexJob, JobResult
from jobs.indexing.stages import run_inline
from services.settings import Settings
from tenants.config import TenantConfig
from tenants.corpus import release as releases
from tenants.corpus.table import open_release
from tenants.ids import job_id, new_job_id
from tenants.scope import TenantScope
from tenants.store import Store, open_store


def load_hashing() -> Any:
    spec = importlib.util.spec_from_file_location("hashing", Path(__file__).with_name("hashing.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Bench:
    """One tenant to index documents for."""

    scope: TenantScope
    store: Store
    settings: Settings
    folder: Path
    embed: Any

    def write(self, name: str, texts: dict[str, str]) -> Path:
        """A JSONL source of `{id: text}`."""
        path = self.folder / name
        path.write_text("".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()))
        return path

    def index(self, *sources: Path, process: Any = None, **options: Any) -> JobResult:
        identity = job_id(options.pop("job", new_job_id()))
        job = IndexJob(identity, tuple(map(str, sources)), **options)
        inline: Callable[..., Any] = lambda shards, context: run_inline(shards, context, self.embed)  # noqa: E731
        return run_job(job, self.scope, self.store, self.settings, process or inline)

    def writer(self) -> BatchWriter:
        return BatchWriter(self.settings, self.store, lambda context: self.embed)

    def rows(self) -> list[dict[str, Any]]:
        release = releases.current(self.scope)
        return [] if release is None else open_release(self.scope, release).to_table().to_pylist()

    def texts(self) -> dict[str, str]:
        """What is published: document → the texts of its chunks, in order."""
        found: dict[str, str] = {}
        for row in sorted(self.rows(), key=lambda row: (row["document_id"], row["ordinal"])):
            found[row["document_id"]] = found.get(row["document_id"], "") + row["text"]
        return found


@pytest.fixture(scope="session")
def hashing() -> Any:
    return load_hashing()


@pytest.fixture
def bench(tmp_path: Path, hashing: Any) -> Iterator[Bench]:
    settings = Settings(data_dir=str(tmp_path / "data"), mlflow_tracking_uri="off")
    Path(settings.data_dir).mkdir()
    store = open_store(settings.control_url, pepper=b"0" * 32)
    tenant = store.create_tenant("acme", TenantConfig())
    scope = TenantScope(tenant.name, tenant.uid, tenant.config, settings.root)
    yield Bench(scope, store, settings, tmp_path, hashing.HashEmbed())
    store.close()
