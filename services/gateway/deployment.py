"""The Gateway as a Serve deployment: opens what the settings name, assembles the application, counts with Ray.

Everything is made in the replica's constructor. In the `single` topology the retriever lives in this process, so
that a question crosses no process at all, and the cross-encoders do; in `split` they are reached through handles.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Gauge, Histogram

from services import deadline
from services.audit.expiry import expire_texts
from services.audit.log import SqlAuditLog, open_audit_log
from services.audit.reading import AuditReader
from services.catalogue import CorpusCatalogue
from services.contracts import Caller, PairScorer, Question, Retriever
from services.control_plane import open_control_plane, operator_key
from services.embedding.counting import count_tokens
from services.embedding.encoder import describe_encoder
from services.evidence.extract import ExtractiveAnswerer
from services.evidence.selection import page
from services.experiments.rivals import ShadowRivals
from services.experiments.serving import Variants
from services.experiments.switching import Switching
from services.gateway.app import create_app
from services.gateway.fairness import FairGate
from services.gateway.limits import RateLimits
from services.gateway.logs import configure
from services.gateway.ports import Component, Desk, JobSubmitter, Platform
from services.gateway.shadowing import QueuedScorer, shadow_reranks
from services.gateway.usage import TenantPairs, TenantTokens
from services.gateway.variants import warmer
from services.generation.answerer import GroundedAnswerer
from services.generation.generators import Generators
from services.handles import RemoteIndexer, RemoteRetriever, RemoteScorer, hold_to_loopback, open_generators
from services.models import BUILTIN
from services.query import Steps, prepare
from services.reranking.adaptive import AdaptiveReranker
from services.reranking.deployment import RayMeter
from services.reranking.local import open_scorer
from services.reranking.served import BUILTINS
from services.result import Prepared
from services.retrieval.local import open_retriever
from services.settings import Settings
from tenants.config import TenantConfig
from tenants.database import Database
from tenants.errors import FathomError
from tenants.ids import TenantName, TenantUid
from tenants.scope import TenantScope
from tenants.store import CalibrationCache, KeyCache, Store

_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
_LOSSES = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
TENANT_SHARE = 8  # a tenant with company holds an eighth of the slots: more only slow its neighbours down
_USE_FLUSH_S = 60.0
_EXPIRY_S = 3_600.0
_OPTIONAL_S = 1.0
_LOADING_S = 5.0  # models that were built before come in time; others are built beside the first questions
_WITHOUT = "until then the first stage's order stands"
_NOBODY = TenantScope(TenantName("nobody"), TenantUid("t_" + "0" * 20), TenantConfig(), "")  # has the default models
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
        about = "Questions by what was decided about reranking"
        self._decisions = Counter("fathom_rerank_decisions_total", about, ("tenant", "decision"))
        about = "Loss of an answered question against its full rerank (shadow reranks)"
        self._losses = Histogram("fathom_shadow_loss", about, _LOSSES, ("tenant", "group"))
        about = "Evidence that the certified loss no longer holds; above 20 the certificate is void"
        self._wealth = Gauge("fathom_shadow_wealth", about, ("tenant", "group"))

    def request(self, tenant: str, route: str, status: int, seconds: float) -> None:
        """See `ports.Metrics`."""
        self._requests.inc(1, {"tenant": tenant, "route": route, "status": str(status)})
        self._latency.observe(max(seconds, 1e-6), {"tenant": tenant, "route": route})

    def stage(self, tenant: str, stage: str, seconds: float) -> None:
        """See `ports.Metrics`."""
        self._stages.observe(max(seconds, 1e-6), {"tenant": tenant, "stage": stage})

    def reranked(self, tenant: str, decision: str) -> None:
        """See `ports.Metrics`."""
        self._decisions.inc(1, {"tenant": tenant, "decision": decision})

    def shadowed(self, tenant: str, group: str, loss: float, wealth: float) -> None:
        """See `shadowing.ShadowMeter`."""
        self._losses.observe(max(loss, 1e-6), {"tenant": tenant, "group": group})
        self._wealth.set(wealth, {"tenant": tenant, "group": group})


@serve.deployment
@serve.ingress()
class Gateway:
    """One replica of the HTTP API. `submitter` makes the job submitter from the settings, `desk` what experiments
    are steered and looked at with.

    Without handles this process retrieves and scores itself; its models load side by side.
    """

    def __init__(
        self,
        settings: Settings,
        indexer: DeploymentHandle,
        submitter: Callable[[Settings], JobSubmitter],
        desk: Callable[[Settings, Store, AuditReader, SqlAuditLog], Desk],
        retriever: DeploymentHandle | None = None,
        reranker_small: DeploymentHandle | None = None,
        reranker_large: DeploymentHandle | None = None,
    ) -> None:
        configure(settings.log_level)
        hold_to_loopback(settings.host)
        loop = asyncio.get_running_loop()
        local = None if reranker_small and reranker_large else open_scorer(settings, BUILTINS, RayMeter())
        scorer = local or RemoteScorer(reranker_small, reranker_large)
        retrieves = RemoteRetriever(retriever) if retriever is not None else open_retriever(settings)
        self._platform = assemble(settings, RemoteIndexer(indexer), submitter(settings), retrieves, scorer, desk)
        if local is not None:
            local.wait(_LOADING_S)
            self._aliases = loop.create_task(local.follow_aliases(settings.reranking.alias_poll_s))
        self._chores = (
            loop.create_task(_every(_USE_FLUSH_S, self._platform.keys.flush_use)),
            loop.create_task(_every(settings.experiment_poll_s, self._platform.desk.look)),
            loop.create_task(_every(_EXPIRY_S, partial(_expire, self._platform.store, self._platform.audit))),
        )
        # What is here now stays: no later collection walks it again and holds up every request meanwhile.
        gc.collect()
        gc.freeze()

    def __serve_build_asgi_app__(self) -> Any:
        """Serve asks for the application once the constructor is done."""
        # Serve puts the request's id on every answer itself.
        return create_app(self._platform, names_answers=False)


def assemble(
    settings: Settings,
    indexer: RemoteIndexer,
    submitter: JobSubmitter,
    retriever: Retriever,
    scorer: QueuedScorer,
    desk: Callable[[Settings, Store, AuditReader, SqlAuditLog], Desk],
) -> Platform:
    """The real platform: stores opened, steps chosen, gates sized."""
    limits = RateLimits(max(1, settings.gateway.min))
    pairs = TenantPairs(limits)
    store = open_control_plane(settings)
    audit, reader = open_audit_log(settings.audit_url), AuditReader(Database(settings.audit_url))
    metrics = RayMetrics()
    gate = FairGate(settings.gateway_slots, tenant_slots=max(1, settings.gateway_slots // TENANT_SHARE))
    shadow = shadow_reranks(scorer, store, audit, metrics, gate)
    generators = open_generators(settings)
    engines = FairGate(settings.generator_slots, tenant_slots=max(1, settings.generator_slots // TENANT_SHARE))
    answerer = GroundedAnswerer(
        ExtractiveAnswerer(retriever),
        generators,
        TenantTokens(limits),
        lambda tenant, timeout_s: engines.admit(tenant, timeout_s=timeout_s),
    )
    steps = Steps(retriever, AdaptiveReranker(scorer, pairs), answerer, audit, shadow=shadow)
    unmetered = replace(steps, reranker=AdaptiveReranker(scorer))  # a shadow is not what the tenant's quota is for
    steps = replace(steps, rivals=ShadowRivals(partial(_ranked, unmetered), audit, lambda: not gate.running))
    variants = Variants()
    readiness = Readiness(store, audit, retriever, scorer, generators)
    return Platform(
        settings=settings,
        admin_key=operator_key(settings),
        store=store,
        keys=KeyCache(store),
        calibrations=CalibrationCache(store),
        steps=steps,
        scorer=scorer,
        pairs=pairs,
        catalogue=CorpusCatalogue(store),
        indexer=indexer,
        jobs=submitter,
        audit=reader,
        desk=desk(settings, store, reader, audit),
        gate=gate,
        writes=FairGate(settings.gateway_writes, tenant_slots=max(1, settings.gateway_writes // TENANT_SHARE)),
        limits=limits,
        metrics=metrics,
        components=readiness.components,
        version=version("fathom"),
        count_tokens=count_tokens,
        variants=variants,
        switching=Switching(warmer(variants, scorer)),
        generators=generators.names,
    )


async def _ranked(steps: Steps, question: Question, scope: TenantScope, caller: Caller) -> Prepared:
    """What a shadowed arm would have shown."""
    return await prepare(question, scope, steps, caller, choose=page)


class Readiness:
    """Asks every component; an answer is remembered for a second, so that probes cost nothing."""

    def __init__(
        self, store: Store, audit: SqlAuditLog, retriever: Retriever, scorer: PairScorer, generators: Generators
    ) -> None:
        self._store = store
        self._generators = generators
        self._audit = audit
        self._retriever = retriever
        self._scorer = scorer
        self._known: tuple[float, Sequence[Component]] = (0.0, ())

    async def components(self) -> Sequence[Component]:
        """One per component, ready or not, with its version."""
        asked_at, known = self._known
        if not known or time.monotonic() - asked_at > 1.0:
            known = await asyncio.gather(
                _probe("control plane", version("sqlalchemy"), asyncio.to_thread(self._store.ping)),
                _probe("audit log", version("sqlalchemy"), self._audit.check()),
                _probe(f"embedder {BUILTIN}", self._embedder(), self._retriever.embed(BUILTIN, ["ready"])),
                *(self._reranker(reference) for reference in BUILTINS),
                *(self._generator(name) for name in self._generators.names),
            )
            known = [Component("gateway", version("fathom"), ready=True), *known, *_libraries()]
            self._known = (time.monotonic(), known)
        return known

    async def _reranker(self, reference: str) -> Component:
        name = f"reranker {reference}"
        try:
            with deadline.within(_OPTIONAL_S):
                facts = await self._scorer.facts(_NOBODY, reference)
        except FathomError as error:
            return Component(name, "", ready=False, detail=f"{error.detail}; {_WITHOUT}", optional=True)
        return Component(name, facts.revision[:12], ready=True, detail=facts.dtype, optional=True)

    async def _generator(self, name: str) -> Component:
        facts = await self._generators.named(name)
        if facts is None:
            detail = "is not up; until then answers are extractive"
            return Component(f"generator {name}", "", ready=False, detail=detail, optional=True)
        at_work = "" if facts.at_work is None else f", {facts.at_work} answers at work"
        detail = f"reads {facts.context_tokens} tokens{at_work}"
        return Component(f"generator {name}", facts.model, ready=True, detail=detail, optional=True)

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
        except Exception:  # noqa: BLE001 - this task's outermost frame: a defect must not end the chore for good
            _log.exception("a chore failed; it is tried again")
