"""Which generator writes a tenant's answers: the platform's by name, the tenant's own server, or none.

    extractive              none: the evidence's own sentences
    auto                    the platform's first generator while it is up, else none
    a generator's name      that one; `vllm` = the tenant's own choice if it has one, else the platform's first
    {openai: {...}}         the tenant's own server

Whether a generator is up is asked beside the questions: only the first one to come may wait for it, briefly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from services import deadline
from services.contracts import Question
from services.generation.engine import Engine, EngineFacts, adapter_name
from services.result import EXTRACTIVE
from tenants.config import OpenAIGenerator, OpenAIServer
from tenants.errors import FathomError, InvalidInput
from tenants.scope import TenantScope

AUTO, VLLM = "auto", "vllm"
FACTS_S = 5.0
FACTS_LIMIT_S = 5.0
FIRST_FACTS_S = 2.0

Connect = Callable[[OpenAIServer], Engine]


@dataclass(frozen=True, slots=True)
class Chosen:
    """`name` as answers give it; `adapter` the tenant's own LoRA adapter."""

    name: str
    engine: Engine
    facts: EngineFacts
    adapter: str | None = None


class Generators:
    """Every generator that this process can reach. `named` are the platform's, in order; `connect` reaches others.

    `adapters[name]` are the tenants that have a LoRA adapter of a generator. For one event loop.
    """

    def __init__(
        self,
        named: Mapping[str, Engine],
        connect: Connect,
        adapters: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._named = dict(named)
        self._connect = connect
        self._adapters = adapters or {}
        self._own: dict[OpenAIServer, Engine] = {}
        self._known: dict[int, tuple[float, EngineFacts | None]] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}

    def knows(self, name: str | None) -> bool:
        """Whether a caller may name it: one of the platform's, or what every platform has."""
        return name in (None, AUTO, VLLM, EXTRACTIVE, *self._named)

    def require(self, name: str | None) -> None:
        """Raises `InvalidInput` for a generator that there is none of."""
        if not self.knows(name):
            known = ", ".join((AUTO, EXTRACTIVE, *self._named))
            raise InvalidInput.field("/generator", f"there is no generator {name}; the generators are {known}")

    @property
    def names(self) -> tuple[str, ...]:
        """What a request may name."""
        return tuple(self._named)

    async def named(self, name: str) -> EngineFacts | None:
        """What one of the platform's generators serves at this moment, None while it is away; asks it."""
        engine = self._named[name]
        await asyncio.wait([self._ask(id(engine), engine)], timeout=FIRST_FACTS_S)
        return self._known.get(id(engine), (0.0, None))[1]

    async def wait(self, seconds: float) -> None:
        """Give generators that are starting the time to come up, for callers who are in no hurry."""
        limit = time.monotonic() + seconds
        while self._named and None in [await self.named(name) for name in self._named]:
            if time.monotonic() > limit:
                return
            await asyncio.sleep(1.0)

    async def choose(self, scope: TenantScope, question: Question) -> Chosen | None:
        """The generator of a question, None = the extractive answerer writes (result.py says when that is a loss)."""
        found = self._wanted(scope, question)
        if found is None:
            return None
        name, engine = found
        facts = await self.facts(engine)
        if facts is None:
            return None
        if name is None:
            return Chosen(f"openai:{facts.model}", engine, facts)
        adapter = adapter_name(scope.tenant) if scope.tenant in self._adapters.get(name, ()) else None
        return Chosen(f"vllm:{facts.model}", engine, facts, adapter)

    def _wanted(self, scope: TenantScope, question: Question) -> tuple[str | None, Engine] | None:
        """The platform's name of the generator, None for the tenant's own, and its engine; None = nobody."""
        own, wish = scope.config.generator, question.generator or AUTO
        if wish not in (AUTO, VLLM):
            return (wish, self._named[wish]) if wish in self._named else None
        if isinstance(own, OpenAIGenerator):
            if own.openai not in self._own:
                self._own[own.openai] = self._connect(own.openai)
            return None, self._own[own.openai]
        if own in self._named:
            return own, self._named[own]
        if own not in (AUTO, EXTRACTIVE, VLLM) or (wish == AUTO and own == EXTRACTIVE):
            return None
        if wish == VLLM and VLLM in self._named:
            return VLLM, self._named[VLLM]
        return next(iter(self._named.items()), None)

    async def facts(self, engine: Engine) -> EngineFacts | None:
        """What an engine serves, None while it is away. Known facts are renewed in the background."""
        key = id(engine)
        known = self._known.get(key)
        if known is None or (known[1] is None and time.monotonic() - known[0] > FACTS_S):
            task = self._ask(key, engine)
            if known is None:
                await asyncio.wait([task], timeout=FIRST_FACTS_S)
        elif time.monotonic() - known[0] > FACTS_S:
            self._ask(key, engine)
        return self._known.get(key, (0.0, None))[1]

    def lost(self, engine: Engine) -> None:
        """An engine failed: the next question asks whether it is there before it is chosen."""
        self._known.pop(id(engine), None)

    def _ask(self, key: int, engine: Engine) -> asyncio.Task[None]:
        running = self._asking.get(key)
        if running is None or running.done():
            running = self._asking[key] = asyncio.create_task(self._learn(key, engine))
        return running

    async def _learn(self, key: int, engine: Engine) -> None:
        deadline.start(FACTS_LIMIT_S)  # a task's own: the question that began it may be nearly over
        facts: EngineFacts | None = None
        try:
            facts = await engine.facts()
        except FathomError:
            facts = None
        finally:
            self._known[key] = (time.monotonic(), facts)
