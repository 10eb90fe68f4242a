"""Serve handles as the Protocols of the line: deadline, cancel, back-pressure, one retry, breaker.

Whatever Ray raises is translated here into `tenants.errors`; nothing above this file knows Ray. A reader's call is
tried once more when its replica died under it; a writer's is not.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve._private import replica
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from services import deadline
from services.breaker import Breaker
from services.contracts import Candidates, CrossEncoderFacts, Float32, Passage, Question, Scored
from services.gateway.ports import Upload
from services.generation.engine import Engine, EngineFacts, Piece, ServerEngine, Writing, chat_body
from services.generation.generators import Generators
from services.settings import GeneratorModel, Settings, secret_of
from tenants.config import OpenAIServer
from tenants.errors import DeadlineExceeded, FathomError, Overloaded, Unavailable
from tenants.scope import TenantScope

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_Model = tuple[str, str]  # role, reference
FACTS_S = 5.0
FIRST_FACTS_S = 0.25
PATIENCE_S = 0.2
GENERATOR_DEPLOYMENT = "Generator"
_GONE = (RayActorError, DeploymentUnavailableError)


def hold_to_loopback(host: str) -> None:
    """Keep this replica's own gRPC server off the network when the platform listens on loopback.

    Serve 2.60 binds the server for calls between deployments to `[::]` and has no setting for it
    (ray/serve/_private/replica.py, `_on_initialized`). Ray's token guards it; on a laptop it should not be
    reachable at all. The server is opened after the deployment's constructor, which is where this is called.
    """
    if host not in LOOPBACK_HOSTS:
        return
    opened = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: opened(server, address.replace("[::]", "127.0.0.1"))


class RemoteRetriever:
    """contracts.Retriever behind a Serve handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._caller = _Caller(handle, "the retriever", attempts=2)

    async def retrieve(self, scope: TenantScope, question: Question) -> Candidates:
        """See `contracts.Retriever`."""
        found: Candidates = await self._caller.call("retrieve", scope, question)
        return found

    async def embed(self, model: str, texts: Sequence[str]) -> Float32:
        """See `contracts.Retriever`."""
        vectors: Float32 = await self._caller.call("embed", model, list(texts))
        return vectors


class RemoteIndexer:
    """ports.Indexer behind a Serve handle; a write that may have happened is never sent again."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._caller = _Caller(handle, "the indexer", attempts=1)

    async def index(
        self, scope: TenantScope, documents: Sequence[Mapping[str, Any]], uploads: Sequence[Upload], collection: str
    ) -> Mapping[str, Any]:
        """See `ports.Indexer`."""
        files = [(upload.name, upload.content) for upload in uploads]
        return await self._ask("index", scope, list(documents), files, collection)

    async def delete(self, scope: TenantScope, document_id: str) -> Mapping[str, Any]:
        """See `ports.Indexer`."""
        return await self._ask("delete", scope, document_id)

    async def erase(self, scope: TenantScope, document_ids: Sequence[str]) -> Mapping[str, Any]:
        """See `ports.Indexer`."""
        return await self._ask("erase", scope, list(document_ids))

    async def rollback(self, scope: TenantScope, to: int | None) -> Mapping[str, Any]:
        """See `ports.Indexer`."""
        return await self._ask("rollback", scope, to)

    async def drop(self, scope: TenantScope) -> None:
        """See `ports.Indexer`."""
        await self._caller.call("drop", scope)

    async def _ask(self, method: str, *arguments: Any) -> Mapping[str, Any]:
        outcome: Mapping[str, Any] = await self._caller.call(method, *arguments)
        return outcome


class RemoteScorer:
    """contracts.PairScorer behind two Serve handles: a reference is served by the deployment of its role.

    The breaker is a reference's own, so that a model which does not load or is too slow rests alone. Facts are kept and
    asked again beside the questions: only the first caller waits, and not for a model that is still being loaded.
    """

    def __init__(self, small: DeploymentHandle, large: DeploymentHandle) -> None:
        self._handles = {"small": small, "large": large}
        self._callers: dict[_Model, _Caller] = {}
        self._facts: dict[_Model, CrossEncoderFacts] = {}
        self._asked: dict[_Model, tuple[float, asyncio.Task[None] | None]] = {}

    async def facts(self, scope: TenantScope, reference: str) -> CrossEncoderFacts:
        """See `contracts.PairScorer`."""
        model = _role(scope, reference), reference
        known = self._facts.get(model)
        if known is None:
            return await self._ask(model, scope)
        asked_at, task = self._asked[model]
        if time.monotonic() - asked_at > FACTS_S and (task is None or task.done()):
            self._asked[model] = time.monotonic(), asyncio.create_task(self._refresh(model, scope))
        return known

    async def _ask(self, model: _Model, scope: TenantScope) -> CrossEncoderFacts:
        with deadline.within(FIRST_FACTS_S):
            facts: CrossEncoderFacts = await self._caller(model).call("facts", _bare(scope), model[1])
        self._facts[model], self._asked[model] = facts, (time.monotonic(), None)
        return facts

    async def _refresh(self, model: _Model, scope: TenantScope) -> None:
        deadline.start(FIRST_FACTS_S)  # a task's own: the question that began it may be nearly over
        try:
            await self._ask(model, scope)
        except FathomError:
            self._facts.pop(model, None)

    async def score(
        self, scope: TenantScope, reference: str, query: str, passages: Sequence[Passage], partial: bool = False
    ) -> Scored:
        """See `contracts.PairScorer`."""
        slim = [replace(passage, metadata={}) for passage in passages]
        caller = self._caller((_role(scope, reference), reference))
        scored: Scored = await caller.call("score", _bare(scope), reference, query, slim, partial)
        return scored

    async def waiting(self, scope: TenantScope, reference: str) -> int:
        """Pairs that wait for the model in one of its replicas: work that may wait itself asks first."""
        pairs: int = await self._caller((_role(scope, reference), reference)).call("waiting", _bare(scope), reference)
        return pairs

    def _caller(self, model: _Model) -> _Caller:
        role, reference = model
        if model not in self._callers:
            what = f"the {role} reranker {reference}"
            self._callers[model] = _Caller(self._handles[role], what, attempts=2, patience_s=PATIENCE_S)
        return self._callers[model]


def _role(scope: TenantScope, reference: str) -> str:
    return "small" if reference == scope.config.rerankers.small else "large"


def _bare(scope: TenantScope) -> TenantScope:
    """What a scorer needs of a scope; a calibration may be large."""
    return replace(scope, calibration=None)


class RemoteEngine:
    """generation.engine.Engine behind the handle of a vLLM deployment, which is an application of its own.

    The handle is looked up when it is first needed: the generator may start later than the gateway, and again.
    """

    def __init__(self, application: str, deployment: str) -> None:
        self._address = application, deployment
        self._known: tuple[DeploymentHandle, _Caller] | None = None

    async def facts(self) -> EngineFacts:
        """See `generation.engine.Engine`."""
        await asyncio.to_thread(self._handle)  # asks the controller, and waits for it
        return EngineFacts(**await self._caller().call("facts"))

    async def count(self, texts: Sequence[str]) -> list[int]:
        """See `generation.engine.Engine`."""
        counts: list[int] = await self._caller().call("tokens", list(texts))
        return counts

    async def write(self, writing: Writing, timeout_s: float = math.inf) -> AsyncGenerator[Piece]:
        """See `generation.engine.Engine`. Nothing is sent twice: what was written may have been shown."""
        handle = self._handle()[0]
        body = chat_body(self._address[0].removeprefix("generator-"), writing, structured=True)
        response = handle.options(stream=True).write.remote(body)
        ended = False
        try:
            async with asyncio.timeout(None if math.isinf(timeout_s) else timeout_s):
                async for piece in response:
                    yield piece
            ended = True
        except TimeoutError:
            raise DeadlineExceeded("the generator did not answer in time; try again", retry_after_s=1) from None
        except BackPressureError:
            raise Overloaded("the generator is full; try again", retry_after_s=1) from None
        except RayTaskError as error:
            raise _refusal(error) from error
        except (RayServeException, RayError) as error:
            raise Unavailable("the generator failed while it wrote; try again", retry_after_s=1) from error
        finally:
            if not ended:
                response.cancel()

    def _handle(self) -> tuple[DeploymentHandle, _Caller]:
        if self._known is None:
            application, deployment = self._address
            try:
                handle = serve.get_deployment_handle(deployment, application)
            except RayServeException as error:
                raise Unavailable("the generator is not there; try again", retry_after_s=1) from error
            self._known = handle, _Caller(handle, "the generator", attempts=2)
        return self._known

    def _caller(self) -> _Caller:
        return self._handle()[1]


def _refusal(error: RayTaskError) -> Unavailable:
    cause = getattr(error, "cause", None)
    failed = Unavailable("the generator failed while it wrote; try again", retry_after_s=1)
    return cause if isinstance(cause, Unavailable) else failed


def open_generators(settings: Settings) -> Generators:
    """The platform's generators, each behind its handle or its address, and the way to a tenant's own server."""

    def connect(server: OpenAIServer) -> Engine:
        return ServerEngine(server.base_url, server.model, secret_of(server.key_env))

    def reach(name: str, model: GeneratorModel) -> Engine:
        if model.base_url is None:
            return RemoteEngine(generator_application(name), GENERATOR_DEPLOYMENT)
        return ServerEngine(model.base_url, model.model, secret_of(model.key_env), structured=model.structured)

    named = {name: reach(name, model) for name, model in settings.generators.items()}
    adapters = {name: frozenset(model.adapters) for name, model in settings.generators.items()}
    return Generators(named, connect, adapters)


def generator_application(name: str) -> str:
    """The Serve application of one generator; it has no route: only this handle reaches it."""
    return f"generator-{name}"


class _Caller:
    """Calls methods of one deployment; `what` is how a person reads its name.

    A call that had `patience_s` and got no answer counts as a failure; one that had less says nothing about the callee.
    """

    def __init__(self, handle: DeploymentHandle, what: str, attempts: int, patience_s: float = math.inf) -> None:
        self._handle = handle
        self._what = what
        self._attempts = attempts
        self._patience_s = patience_s
        self._breaker = Breaker()

    async def call(self, method: str, *arguments: Any) -> Any:
        """The method's value. Raises its own `FathomError`, `Overloaded`, `DeadlineExceeded` or `Unavailable`."""
        for attempt in range(1, self._attempts + 1):
            if not self._breaker.allows():
                raise self._unavailable("rests after repeated failures", self._breaker.rest_s)
            try:
                return await self._once(method, arguments)
            except _GONE:
                self._breaker.failed()
                if attempt == self._attempts:
                    raise self._unavailable("is not there", 1.0) from None
        raise self._unavailable("is not there", 1.0)

    async def _once(self, method: str, arguments: tuple[Any, ...]) -> Any:
        left = deadline.check()
        response = getattr(self._handle, method).remote(*arguments, None if math.isinf(left) else left)
        try:
            async with asyncio.timeout(None if math.isinf(left) else left):
                value = await response
        except (TimeoutError, asyncio.CancelledError, TaskCancelledError) as error:
            response.cancel()
            if isinstance(error, asyncio.CancelledError):
                raise
            self._late(left)
            raise DeadlineExceeded(f"{self._what} did not answer in time; try again", retry_after_s=1) from None
        except BackPressureError:
            raise Overloaded(f"{self._what} is full; try again", retry_after_s=1) from None
        except RayTaskError as error:
            cause = self._cause(error)
            if isinstance(cause, DeadlineExceeded):
                self._late(left)
            else:
                self._breaker.succeeded()
            raise cause from error
        except _GONE:
            raise
        except (RayServeException, RayError) as error:
            self._breaker.failed()
            raise self._unavailable("failed", 1.0) from error
        self._breaker.succeeded()
        return value

    def _late(self, left_s: float) -> None:
        if left_s >= self._patience_s:
            self._breaker.failed()

    def _cause(self, error: RayTaskError) -> FathomError:
        cause = error.cause if hasattr(error, "cause") else None
        return cause if isinstance(cause, FathomError) else self._unavailable("failed; its log says why", 1.0)

    def _unavailable(self, state: str, retry_after_s: float) -> Unavailable:
        return Unavailable(f"{self._what} {state}; try again", retry_after_s=max(1.0, retry_after_s))
