"""The real application, store, audit log and gates over a corpus in memory, asked through ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.experiments.desk import Desk
from services.audit.log import open_audit_log
from services.audit.reading import AuditReader
from services.contracts import Candidates, Float32, Question
from services.evidence.extract import ExtractiveAnswerer
from services.gateway.app import create_app
from services.gateway.fairness import FairGate
from services.gateway.limits import RateLimits
from services.gateway.ports import Component, Platform, Upload
from services.gateway.usage import TenantPairs, TenantTokens
from services.generation.answerer import GroundedAnswerer
from services.query import Steps
from services.reranking.first_stage import FirstStage
from services.settings import Ingest, Limits, Retrieval, Settings
from tenants.database import Database
from tenants.errors import Conflict, NotFound, Unavailable
from tenants.scope import Release, TenantScope
from tenants.store import CalibrationCache, KeyCache, open_store
from tests import fakes
from tests.services.generation.scripted import ScriptedEngine, generators

ADMIN_KEY = "fa_" + "a" * 64


@dataclass
class MemoryCorpus:
    """Retriever, catalogue and indexer over dictionaries keyed by the tenant's uid.

    Suffices because the gateway's promises are about who may reach what and in which shape; what the real index
    promises is tested on the real one. A document is one chunk.
    """

    versions_of: dict[str, list[dict[str, dict[str, Any]]]] = field(default_factory=dict)
    broken: bool = False

    def _current(self, scope: TenantScope) -> dict[str, dict[str, Any]]:
        versions = self.versions_of.get(scope.uid)
        return versions[-1] if versions else {}

    def _publish(self, scope: TenantScope, documents: dict[str, dict[str, Any]]) -> int:
        versions = self.versions_of.setdefault(scope.uid, [])
        versions.append(documents)
        return len(versions)

    async def pinned(self, scope: TenantScope) -> TenantScope:
        held = self.versions_of.get(scope.uid)
        if not held:
            return scope
        count, release = len(held[-1]), fakes.scope().release
        assert isinstance(release, Release)
        return replace(scope, release=replace(release, version=len(held), documents=count, chunks=count))

    async def documents(self, scope: TenantScope, after: str | None, limit: int) -> Sequence[Mapping[str, Any]]:
        ids = sorted(each for each in self._current(scope) if after is None or each > after)
        return [self._shown(scope, each) for each in ids[:limit]]

    async def document(self, scope: TenantScope, document_id: str) -> Mapping[str, Any]:
        return self._shown(scope, document_id)

    def _shown(self, scope: TenantScope, document_id: str) -> dict[str, Any]:
        row = self._current(scope).get(document_id)
        if row is None:
            raise NotFound("the published version holds no such document")
        return {
            "id": document_id,
            "title": row.get("title", ""),
            "collection": "default",
            "chunks": 1,
            "digest": "0" * 32,
            "updated_at": row.get("updated_at"),
            "url": row.get("url"),
            "metadata": row.get("metadata", {}),
        }

    async def versions(self, scope: TenantScope) -> Sequence[Mapping[str, Any]]:
        count = len(self.versions_of.get(scope.uid, ()))
        figures = {"documents": 1, "chunks": 1, "tokens": 1, "fingerprint": "f", "embedder": "builtin"}
        stamp = "2026-01-01T00:00:00+00:00"
        return [
            {"index_version": n, "published_at": stamp, "current": n == count, **figures} for n in range(count, 0, -1)
        ]

    async def index(
        self, scope: TenantScope, documents: Sequence[Mapping[str, Any]], uploads: Sequence[Upload], collection: str
    ) -> Mapping[str, Any]:
        rows = [dict(row) for row in documents]
        rows += [{"id": each.name, "text": each.content.decode("utf-8", "replace")} for each in uploads]
        merged = self._current(scope) | {row["id"]: row for row in rows}
        version = self._publish(scope, merged)
        return {"indexed": len(rows), "unchanged": 0, "failed": [], "index_version": version}

    async def delete(self, scope: TenantScope, document_id: str) -> Mapping[str, Any]:
        self._shown(scope, document_id)
        kept = {key: row for key, row in self._current(scope).items() if key != document_id}
        return {"index_version": self._publish(scope, kept)}

    async def erase(self, scope: TenantScope, document_ids: Sequence[str]) -> Mapping[str, Any]:
        kept = {key: row for key, row in self._current(scope).items() if key not in document_ids}
        erased = len(self._current(scope)) - len(kept)
        return {"erased": erased, "index_version": self._publish(scope, kept)}

    async def rollback(self, scope: TenantScope, to: int | None) -> Mapping[str, Any]:
        held = self.versions_of.get(scope.uid, [])
        if to is not None and not 1 <= to <= len(held):
            raise NotFound(f"there is no version {to}")
        if to is None and len(held) < 2:
            raise Conflict("there is no earlier version to roll back to")
        return {"index_version": self._publish(scope, held[(to or len(held) - 1) - 1])}

    async def drop(self, scope: TenantScope) -> None:
        self.versions_of.pop(scope.uid, None)

    async def retrieve(self, scope: TenantScope, question: Question) -> Candidates:
        if self.broken:
            raise Unavailable("the retriever does not answer", retry_after_s=1)
        rows = self._current(scope)
        passages = [fakes.passage(n, row["text"], key) for n, (key, row) in enumerate(rows.items())]
        return await fakes.FakeRetriever(passages).retrieve(scope, question)

    async def embed(self, model: str, texts: Sequence[str]) -> Float32:
        return await fakes.FakeRetriever().embed(model, texts)


@dataclass
class RecordedJobs:
    """Remembers what was submitted; `full` refuses. Suffices because the gateway only hands the job over."""

    submitted: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    full: bool = False
    lost: bool = False

    async def submit(self, tenant: str, job_id: str, spec: Mapping[str, Any]) -> None:
        if self.full:
            raise Unavailable("no job can be started now", retry_after_s=5)
        self.submitted.append((tenant, job_id, spec))

    async def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)

    async def is_lost(self, job_id: str) -> bool:
        return self.lost


@dataclass
class CountedMetrics:
    """Keeps what was counted."""

    requests: list[tuple[str, str, int]] = field(default_factory=list)
    stages: list[tuple[str, str]] = field(default_factory=list)
    decisions: list[tuple[str, str]] = field(default_factory=list)

    def request(self, tenant: str, route: str, status: int, seconds: float) -> None:
        self.requests.append((tenant, route, status))

    def stage(self, tenant: str, stage: str, seconds: float) -> None:
        self.stages.append((tenant, stage))

    def reranked(self, tenant: str, decision: str) -> None:
        self.decisions.append((tenant, decision))


@dataclass
class World:
    """One platform and a client that asks it."""

    platform: Platform
    corpus: MemoryCorpus
    jobs: RecordedJobs
    metrics: CountedMetrics
    scorer: fakes.FakeScorer
    client: httpx.AsyncClient
    engine: ScriptedEngine
    ready: bool = True
    reranks: bool = True

    def tenant(self, name: str, scope: str = "admin", **config: Any) -> dict[str, str]:
        """A new tenant; gives the headers of a key of that scope."""
        from tenants.config import TenantConfig

        tenant = self.platform.store.create_tenant(name, TenantConfig.model_validate(config))
        return self.key(tenant.name, scope)

    def key(self, name: str, scope: str) -> dict[str, str]:
        """The headers of a new key."""
        key, _ = self.platform.store.add_key(self.platform.store.get_tenant(name), scope)
        return {"Authorization": f"Bearer {key}"}

    @property
    def operator(self) -> dict[str, str]:
        """The headers of the platform's admin key."""
        return {"Authorization": f"Bearer {ADMIN_KEY}"}

    async def put(self, name: str, headers: Mapping[str, str], **texts: str) -> None:
        """Index documents by id."""
        rows = [{"id": key, "text": text} for key, text in texts.items()]
        answer = await self.client.post(f"/t/{name}/v1/documents", json={"documents": rows}, headers=headers)
        assert answer.status_code == 200, answer.text


def settings_for(folder: Path) -> Settings:
    """Small limits, so that they can be met."""
    return Settings(
        data_dir=str(folder),
        mlflow_tracking_uri="off",
        experiment_poll_s=0.05,
        gateway_slots=4,
        request_timeout_s=120,
        retrieval=Retrieval(leg_timeout_s=120),
        limits=Limits(body_bytes=256 * 1024, batch_documents=50),
        ingest=Ingest(allow=("https://docs.example.com/public/",)),
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A fresh platform per test."""
    settings = settings_for(tmp_path)
    store = open_store(settings.control_url, pepper=b"a pepper of the tests, 32 bytes!")
    audit, corpus, jobs, metrics = open_audit_log(settings.audit_url), MemoryCorpus(), RecordedJobs(), CountedMetrics()
    reading, scorer, limits = Database(settings.audit_url), fakes.FakeScorer(), RateLimits()
    engine = ScriptedEngine(away=Unavailable("not started"))
    answerer = GroundedAnswerer(ExtractiveAnswerer(corpus), generators(engine), TenantTokens(limits))
    held: list[World] = []

    async def components() -> Sequence[Component]:
        detail = "" if held[0].ready else "is away"
        return [
            Component("control plane", "1", held[0].ready, detail),
            Component("reranker builtin-large", "2", held[0].reranks, optional=True),
        ]

    async def count_tokens(model: str, texts: Sequence[str]) -> int:
        return sum(len(text.split()) for text in texts)

    platform = Platform(
        settings=settings,
        admin_key=ADMIN_KEY,
        store=store,
        calibrations=CalibrationCache(store),
        keys=KeyCache(store, ttl_s=0.05),
        steps=Steps(corpus, FirstStage(), answerer, audit),
        scorer=scorer,
        pairs=TenantPairs(limits),
        catalogue=corpus,
        indexer=corpus,
        jobs=jobs,
        audit=AuditReader(reading),
        desk=Desk(store, AuditReader(reading), audit, settings),
        gate=FairGate(settings.gateway_slots),
        writes=FairGate(settings.gateway_writes),
        limits=limits,
        metrics=metrics,
        components=components,
        version="0.1.0",
        count_tokens=count_tokens,
        generators=("vllm",),
    )
    transport = httpx.ASGITransport(create_app(platform), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        held.append(World(platform, corpus, jobs, metrics, scorer, client, engine))
        yield held[0]
    audit.close()
    reading.close()
    store.close()
