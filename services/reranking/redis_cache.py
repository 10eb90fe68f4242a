"""Logits in Redis or Valkey, shared by every replica. One that is slow or away costs hits, never an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.breaker import Breaker
from services.contracts import Float32

PREFIX = b"fathom:logit:"
TIMEOUT_S = 0.05  # scoring sixteen pairs takes about as long: waiting longer costs more than a hit saves
WRITES = 64  # at work beside the requests; more are dropped
TTL_S = 7 * 24 * 3_600
VALUE = np.dtype("<f4")
_AWAY = (RedisError, OSError, TimeoutError)


class RedisCache:
    """cache.LogitCache on a server of its own; keys expire a week after they were written. For one event loop."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._redis = Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self._timeout_s = timeout_s
        self._breaker = Breaker()
        self._writes: set[asyncio.Task[None]] = set()

    async def get(self, keys: Sequence[bytes]) -> Float32:
        """See `LogitCache`; nothing is held while the server is away."""
        logits = np.full(len(keys), np.nan, np.float32)
        if not keys or not self._breaker.allows():
            return logits
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._redis.mget([PREFIX + key for key in keys])
        except _AWAY:
            self._breaker.failed()
            return logits
        self._breaker.succeeded()
        for row, value in enumerate(found):
            if isinstance(value, bytes) and len(value) == VALUE.itemsize:
                logits[row] = np.frombuffer(value, VALUE)[0]
        return logits

    async def put(self, keys: Sequence[bytes], logits: Float32) -> None:
        """See `LogitCache`; the request does not wait for it."""
        if len(keys) and len(self._writes) < WRITES and not self._breaker.rest_s:
            task = asyncio.create_task(self._write(keys, logits.astype(VALUE)))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def written(self) -> None:
        """Returns once nothing is on its way any more."""
        await asyncio.gather(*self._writes)

    async def close(self) -> None:
        """Finish the writes and let the connections go."""
        await self.written()
        await self._redis.aclose()

    async def _write(self, keys: Sequence[bytes], logits: Float32) -> None:
        try:
            async with asyncio.timeout(self._timeout_s * 10), self._redis.pipeline(transaction=False) as pipe:
                for key, logit in zip(keys, logits, strict=True):
                    pipe.set(PREFIX + key, logit.tobytes(), ex=TTL_S)
                await pipe.execute()
        except _AWAY:
            self._breaker.failed()
