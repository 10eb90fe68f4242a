"""The Gateway as a Serve deployment: opens what the settings name, assembles the application, counts with Ray.

Everything is made in the replica's constructor. In the `single` topology the retriever lives in this process, so
that a question crosses no process at all; in `split` it is reached through a handle.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Histogram

from services.audit.expiry import expire_texts
from services.audit.log import SqlAuditLog, open_audit_log
from services.audit.reading import AuditReader
from services.catalogue import CorpusCatalogue
from services.contracts import Retriever
from services.control_plane import open_control_plane, operator_key
from services.embedding.counting import count_tokens
from services.embedding.encoder import describe_encoder
from services.evidence.extract import ExtractiveAnswerer
from services.gateway.app import create_app
from services.gateway.fairness import FairGate
from services.gateway.limits import RateLimits
from services.gateway.logs import configure
from services.gateway.ports import Component, JobSubmitter, Platform
from services.handles import RemoteIndexer, RemoteRetriever, hold_to_loopback
from services.models import BUILTIN
from services.query import Steps
from services.reranking.first_stage import FirstStage
from services.retrieval.local import open_retriever
from services.settings import Settings
from tenants.database import Database
from tenants.errors import FathomError
from tenants.store import CalibrationCache, KeyCache, Store

_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
TENANT_SHARE = 4  # a tenant with company holds a quarter of the slots: more only slow its neighbours down
_USE_FLUSH_S = 60.0
_EXPIRY_S = 3_600.0
_log = logging.getLogger("fathom.gateway")


class RayMetrics:
    """ports.Metrics on Ray's Prometheus page; tags `tenant` and `stage` or `route` and `status`."""

    def __init__(self) -> None:
        about = "HTTP requests by tenant, route and status (0 = the client left before an answer)"
        self._requests = Counter("fathom_requests_total", about, ("tenant", "route", "status"))
        self._latency = Histogram("fathom_request_seconds", "Time to the last byte", _SECONDS, ("tenant", "route"))
        self._stages = Histogram(
            "fathom_stage_seconds", "Time in one stage of a question", _SECONDS, ("tenant", "stage")
        )

    def request(self, tenant: str, route: str, status: int, seconds: float) -> None:
        """See `ports.Metrics`."""
        self._requests.inc(1, {"tenant": tenant, "route": route, "status": str(status)})
        self._latency.observe(max(seconds, 1e-6), {"tenant": tenant, "route": route})

    def stage(self, tenant: str, stage: str, seconds: float) -> None:
        """See `ports.Metrics`."""
        self._stages.observe(max(seconds, 1e-6), {"tenant": tenant, "stage": stage})


@serve.deployment
@serve.ingress()
class Gateway:
    """One replica of the HTTP API. `submitter` makes the job submitter from the settings."""

    def __init__(
        self,
        settings: Settings,
        indexer: DeploymentHandle,
        submitter: Callable[[Settings], JobSubmitter],
        retriever: DeploymentHandle | None = None,
    ) -> None:
        configure(settings.log_level)
        hold_to_loopback(settings.host)
        self._platform = assemble(
            settings, RemoteIndexer(indexer), submitter(settings), _retriever(settings, retriever)
        )
        loop = asyncio.get_running_loop()
        self._chores = (
            loop.create_task(_every(_USE_FLUSH_S, self._platform.keys.flush_use)),
            loop.create_task(_every(_EXPIRY_S, partial(_expire, self._platform.store, self._platform.audit))),
        )

    def __serve_build_asgi_app__(self) -> Any:
        """Serve asks for the application once the constructor is done."""
        # Serve puts the request's id on every answer itself.
        return create_app(self._platform, names_answers=False)


def assemble(settings: Settings, indexer: RemoteIndexer, submitter: JobSubmitter, retriever: Retriever) -> Platform:
    """The real platform: stores opened, steps chosen, gates sized."""
    store = open_control_plane(settings)
    audit, reader = open_audit_log(settings.audit_url), AuditReader(Database(settings.audit_url))
    steps = Steps(retriever, FirstStage(), ExtractiveAnswerer(retriever), audit)
    readiness = Readiness(store, audit, retriever)
    return Platform(
        settings=settings,
        admin_key=operator_key(settings),
        store=store,
        keys=KeyCache(store),
        calibrations=CalibrationCache(store),
        steps=steps,
        catalogue=CorpusCatalogue(),
        indexer=indexer,
        jobs=submitter,
        audit=reader,
        gate=FairGate(settings.gateway_slots, tenant_slots=max(1, settings.gateway_slots // TENANT_SHARE)),
        writes=FairGate(settings.gateway_writes, tenant_slots=max(1, settings.gateway_writes // TENANT_SHARE)),
        limits=RateLimits(max(1, settings.gateway.min)),
        metrics=RayMetrics(),
        components=readiness.components,
        version=version("fathom"),
        count_tokens=count_tokens,
    )


class Readiness:
    """Asks every component; an answer is remembered for a second, so that probes cost nothing."""

    def __init__(self, store: Store, audit: SqlAuditLog, retriever: Retriever) -> None:
        self._store = store
        self._audit = audit
        self._retriever = retriever
        self._known: tuple[float, Sequence[Component]] = (0.0, ())

    async def components(self) -> Sequence[Component]:
        """One per component, ready or not, with its version."""
        asked_at, known = self._known
        if not known or time.monotonic() - asked_at > 1.0:
            known = await asyncio.gather(
                _probe("control plane", version("sqlalchemy"), asyncio.to_thread(self._store.ping)),
                _probe("audit log", version("sqlalchemy"), self._audit.check()),
                _probe(f"embedder {BUILTIN}", self._embedder(), self._retriever.embed(BUILTIN, ["ready"])),
            )
            known = [Component("gateway", version("fathom"), ready=True), *known, *_libraries()]
            self._known = (time.monotonic(), known)
        return known

    def _embedder(self) -> str:
        return describe_encoder(BUILTIN).fingerprint[:12]


def _libraries() -> list[Component]:
    return [Component(name, version(package), ready=True) for name, package in (("serve", "ray"), ("index", "lancedb"))]


async def _probe(name: str, of_version: str, asked: Any) -> Component:
    try:
        async with asyncio.timeout(5):
            await asked
    except (FathomError, TimeoutError) as error:
        return Component(name, of_version, ready=False, detail=str(error) or "did not answer within 5 s")
    return Component(name, of_version, ready=True)


def _retriever(settings: Settings, handle: DeploymentHandle | None) -> Retriever:
    return RemoteRetriever(handle) if handle is not None else open_retriever(settings)


def _expire(store: Store, audit: AuditReader) -> None:
    expire_texts(store, audit, time.time_ns() // 1_000_000)


async def _every(seconds: float, chore: Callable[[], None]) -> None:
    """Run a chore beside the requests; an outage of the store only puts it off."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(chore)
        except FathomError as error:
            _log.warning("a chore was put off: %s", error.detail)
