"""Query texts → unit vectors beside an event loop: encoders loaded once, work in threads. Knows no framework.

A question is encoded alone on a CPU, so that its vector, and with it every score of a tenant, does not depend by
a bit on who else asks at that moment. On a GPU, where one text leaves most of the device idle, what waits while a
batch runs forms the next batch; nobody waits for company.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from services.contracts import Float32
from services.embedding.encoder import Encoder
from tenants.errors import FathomError, Unavailable

_ENGINE_ERRORS = (RuntimeError, ValueError, OSError, MemoryError)  # what OpenVINO, torch and tokenizers raise


class QueryEncoder:
    """Encodes for many callers at once; one instance per process, used from one event loop.

    `load` turns a model reference into an encoder (slow, called once per reference, in a thread). `threads` calls
    run at a time. `batch` caps the texts of different callers in one call: 1 on a CPU.
    """

    def __init__(self, load: Callable[[str], Encoder], *, threads: int = 2, batch: int = 1) -> None:
        self._load = load
        self._batch = batch
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fathom-embed")
        self._encoders: dict[str, asyncio.Task[Encoder]] = {}
        self._waiting: dict[str, deque[tuple[Sequence[str], asyncio.Future[Float32]]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def encoder(self, model: str) -> Encoder:
        """The encoder of a reference; raises `Unavailable`. A failed load is not kept: the next caller tries again."""
        task = self._encoders.get(model)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._load, model))
            self._encoders[model] = task
        try:
            return await asyncio.shield(task)
        except BaseException as error:
            if task.done() and (task.cancelled() or task.exception()):
                self._encoders.pop(model, None)
            if isinstance(error, _ENGINE_ERRORS):
                raise _engine_failed(model, error) from error
            raise

    async def encode(self, model: str, texts: Sequence[str]) -> Float32:
        """(n, d) float32 unit rows, in the order of `texts`. Raises `Unavailable`, or what finding a model raises."""
        encoder = await self.encoder(model)
        if not texts:
            return np.empty((0, encoder.dimension), np.float32)
        future: asyncio.Future[Float32] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(model, deque()).append((texts, future))
        if len(self._running) < self._threads:
            task = asyncio.create_task(self._drain())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await future

    async def encode_query(self, model: str, text: str) -> Float32:
        """(d,) float32 unit vector of a question, with the prefix that the model wants before questions."""
        encoder = await self.encoder(model)
        row: Float32 = (await self.encode(model, [encoder.info.recipe.query_prefix + text]))[0]
        return row

    def close(self) -> None:
        """Let the threads go; encoders are freed with the instance."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _drain(self) -> None:
        while (model := next((name for name, queue in self._waiting.items() if queue), None)) is not None:
            queue = self._waiting.pop(model)
            calls: list[tuple[Sequence[str], asyncio.Future[Float32]]] = []
            size = 0
            while queue and (not calls or size + len(queue[0][0]) <= self._batch):
                texts, future = queue.popleft()
                if not future.cancelled():  # else its caller has gone: no time for it
                    size += len(texts)
                    calls.append((texts, future))
            if queue:
                self._waiting[model] = queue  # at the end of the order: models take turns
            if calls:
                await self._run(model, calls)

    async def _run(self, model: str, calls: list[tuple[Sequence[str], asyncio.Future[Float32]]]) -> None:
        texts = [text for part, _ in calls for text in part]
        try:
            encoder = await self.encoder(model)
            rows = await asyncio.get_running_loop().run_in_executor(self._pool, encoder.encode, texts)
        except (FathomError, *_ENGINE_ERRORS) as error:
            for _, future in calls:
                if not future.done():
                    future.set_exception(error if isinstance(error, FathomError) else _engine_failed(model, error))
            return
        start = 0
        for part, future in calls:
            if not future.done():
                future.set_result(rows[start : start + len(part)])
            start += len(part)


def _engine_failed(model: str, error: BaseException) -> Unavailable:
    # The engine's own words may quote what it was given: its type says enough.
    detail = f"the embedder {model} failed ({type(error).__name__}); try again, or run `fathom doctor`"
    failed = Unavailable(detail, retry_after_s=1)
    failed.__cause__ = error
    return failed
