"""The cross-encoders of one process, by reference: loaded once, swapped when an alias moves, the idle ones let go.

A model that cannot be loaded is remembered for some seconds, so that its tenant's questions cost nobody a load each;
no other reference is touched by it. A request holds a lease on the model that it began with: a swap or an eviction
takes that model away only after its last request.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from services.contracts import CrossEncoderFacts, Float32
from services.reranking.batching import Pair, PairBatcher
from services.reranking.observed import ObservedCost
from services.reranking.pairs import PairTokenizer
from tenants.errors import FathomError, InvalidInput, Unavailable

BUILTINS = ("builtin-small", "builtin-large")
BUILTIN_LANGUAGES = ("en",)  # they were trained on English questions and passages only
LOADS_AT_ONCE = 2
RETRY_S = 10.0  # how long a failed load stands
_log = logging.getLogger("fathom.reranking")


class CrossEncoder(Protocol):
    """What a loaded model offers, see `cross_encoder.CrossEncoder`."""

    @property
    def facts(self) -> CrossEncoderFacts:
        """Who it is and what a pair costs."""
        ...

    @property
    def tokenizer(self) -> PairTokenizer:
        """Its tokenizer."""
        ...

    def score(self, pairs: Sequence[Pair]) -> Float32:
        """(n,) float32 raw logits."""
        ...


@dataclass(slots=True, eq=False)
class Served:
    """One loaded model; `source` is the reference with its alias resolved, `cost` its prices in traffic."""

    source: str
    facts: CrossEncoderFacts
    cost: ObservedCost
    tokenizer: PairTokenizer
    batcher: PairBatcher
    leases: int = 0
    retired: bool = False

    def settle(self) -> None:
        """Let the worker end once nobody can send it anything."""
        if self.retired and not self.leases:
            self.batcher.close()


@dataclass(slots=True)
class _Slot:
    """What a reference stands for now; `retry_at` is when a failed load may be repeated."""

    loading: Future[Served]
    used_at: float
    retry_at: float = field(default=float("inf"))

    def served(self) -> Served | None:
        """The model, None while it loads or when it could not be loaded."""
        done = self.loading.done() and not self.loading.cancelled() and self.loading.exception() is None
        return self.loading.result() if done else None


class ServedModels:
    """From one event loop; loads run in threads.

    load     a resolved reference → the model; slow. Raises `Unavailable`, `InvalidInput`
    pin      a reference → the one that names the same model tomorrow; slow where a registry is asked
    batcher  (reference, model, its prices) → its worker
    limit    models that may be loaded at once; beyond it the least recently used idle one goes
    """

    def __init__(
        self,
        load: Callable[[str], CrossEncoder],
        pin: Callable[[str], str],
        batcher: Callable[[str, CrossEncoder, ObservedCost], PairBatcher],
        *,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._pin = pin
        self._batcher = batcher
        self._limit = limit
        self._clock = clock
        self._pool = ThreadPoolExecutor(LOADS_AT_ONCE, thread_name_prefix="fathom-rerank-load")
        self._slots: dict[str, _Slot] = {}
        self._refused: dict[str, str] = {}  # reference → the version behind its alias that cannot be loaded

    def preload(self, references: Sequence[str]) -> None:
        """Start loading beside whatever else is being started; failures are met by whoever asks."""
        for reference in references:
            self._slots.setdefault(reference, self._slot(reference))

    def wait(self, limit_s: float | None = None) -> None:
        """Block until what is being loaded has ended, well or not, or for `limit_s`; the loads go on then."""
        wait([slot.loading for slot in self._slots.values()], limit_s)

    @asynccontextmanager
    async def lease(self, reference: str) -> AsyncIterator[Served]:
        """The model for the block, loaded first if it must be. Raises `Unavailable`, `InvalidInput`.

        A caller who gives up leaves the load running: the next one finds it further on.
        """
        served = await self._get(reference)
        served.leases += 1
        try:
            yield served
        finally:
            served.leases -= 1
            served.settle()

    async def refresh(self) -> None:
        """Ask once what each alias stands for now; a new version is loaded, then takes over between two requests."""
        for reference in [each for each in self._slots if is_alias(each)]:
            await self._follow(reference)

    def close(self) -> None:
        """Let the workers end once they have computed what waits."""
        for reference in list(self._slots):
            self._retire(reference)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _get(self, reference: str) -> Served:
        slot = self._slots.get(reference)
        if slot is None or (slot.loading.done() and slot.served() is None and self._clock() >= slot.retry_at):
            self._make_room()
            slot = self._slots[reference] = self._slot(reference)
        slot.used_at = self._clock()
        try:
            return await asyncio.shield(asyncio.wrap_future(slot.loading))
        except FathomError as error:
            raise copy.copy(error) from None  # each caller its own: a shared one would collect their tracebacks

    def _slot(self, reference: str) -> _Slot:
        slot = _Slot(self._pool.submit(self._loaded, reference), self._clock())

        def note(loading: Future[Served]) -> None:
            if not loading.cancelled() and loading.exception() is not None:
                slot.retry_at = self._clock() + RETRY_S

        slot.loading.add_done_callback(note)
        return slot

    def _loaded(self, reference: str) -> Served:
        """In a thread. Whatever goes wrong concerns this reference only."""
        try:
            source = self._pin(reference)
            encoder = self._load(source)
            facts = replace(encoder.facts, reference=reference, languages=_languages(reference, encoder.facts))
            cost = ObservedCost(facts)
            return Served(source, facts, cost, encoder.tokenizer, self._batcher(reference, encoder, cost))
        except (InvalidInput, Unavailable) as error:
            _log.warning("the reranker %s is not served: %s", reference, error.detail)
            raise
        except Exception as error:
            _log.exception("the reranker %s cannot be loaded", reference)
            detail = f"the reranker {reference} cannot be loaded ({type(error).__name__}); run `fathom doctor`"
            raise Unavailable(detail, retry_after_s=RETRY_S) from error

    async def _follow(self, reference: str) -> None:
        slot = self._slots[reference]
        current = slot.served()
        if current is None:
            return
        try:
            source = await asyncio.to_thread(self._pin, reference)
        except FathomError as error:
            _log.warning("the alias of %s could not be read: %s", reference, error.detail)
            return
        if source in (current.source, self._refused.get(reference)):
            return
        await self._swap(reference, slot, source)

    async def _swap(self, reference: str, slot: _Slot, source: str) -> None:
        fresh = self._slot(reference)
        try:
            served = await asyncio.shield(asyncio.wrap_future(fresh.loading))
        except InvalidInput:
            self._refused[reference] = source  # asked again once the alias moves on
            return
        except Unavailable:
            return
        if self._slots.get(reference) is not slot:  # let go meanwhile
            served.batcher.close()
            return
        self._retire(reference)
        self._slots[reference] = fresh
        _log.info("%s is now %s, revision %s", reference, served.source, served.facts.revision)

    def _make_room(self) -> None:
        idle = [name for name, slot in self._slots.items() if slot.loading.done() and not _leased(slot)]
        idle.sort(key=lambda name: self._slots[name].used_at)
        for name in idle[: max(0, len(self._slots) + 1 - self._limit)]:
            self._retire(name)

    def _retire(self, reference: str) -> None:
        served = self._slots.pop(reference).served()
        if served is not None:
            served.retired = True
            served.settle()


def is_alias(reference: str) -> bool:
    """Whether what the reference stands for may change while it is served."""
    return reference.startswith("models:/") and "@" in reference


def _leased(slot: _Slot) -> bool:
    served = slot.served()
    return served is not None and served.leases > 0


def _languages(reference: str, facts: CrossEncoderFacts) -> tuple[str, ...]:
    return facts.languages or (BUILTIN_LANGUAGES if reference in BUILTINS else ())
