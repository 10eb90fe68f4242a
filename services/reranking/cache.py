"""Logits that were already paid for, by content: what a model says of a pair never changes, so nothing is invalidated.

The key is a digest of whose pair it is, which model with which tokenizer in which precision, and the token ids of
query and passage. An updated chunk has other ids and so another key: it can never meet an old score. A tenant's own
pairs are its own; pairs of a shared collection belong to the collection's owner and are shared by its subscribers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from blake3 import blake3

from services.contracts import CrossEncoderFacts, Float32

KEY_BYTES = 16
ENTRY_BYTES = 256  # of Python's heap that one remembered logit takes, rounded up; a test measures it


class LogitCache(Protocol):
    """Remembers logits by key. Never raises: what cannot be read is not held."""

    async def get(self, keys: Sequence[bytes]) -> Float32:
        """(n,) float32 logits in the order of `keys`, NaN = not held."""
        ...

    async def put(self, keys: Sequence[bytes], logits: Float32) -> None:
        """Remember; may be forgotten at any time."""
        ...


def pair_keys(owners: Sequence[str], facts: CrossEncoderFacts, query: bytes, passages: Sequence[bytes]) -> list[bytes]:
    """One key per passage: blake3 over (owner, revision, dtype, tokenizer), then the query's and the passage's ids.

    `query` and `passages` are token ids: spelling that the tokenizer does not see (case, spaces) does not count.
    """
    model = f"{facts.revision}\0{facts.dtype}\0{facts.tokenizer}\0"
    asked = blake3(query).digest()
    heads = {owner: model.encode() + owner.encode() + b"\0" + asked for owner in set(owners)}
    return [
        blake3(heads[owner] + blake3(passage).digest()).digest(KEY_BYTES)
        for owner, passage in zip(owners, passages, strict=True)
    ]


class MemoryCache:
    """Logits of this process, the least recently used out first. For one event loop; not thread-safe."""

    def __init__(self, budget_bytes: int) -> None:
        self._limit = budget_bytes // ENTRY_BYTES
        self._logits: OrderedDict[bytes, float] = OrderedDict()

    async def get(self, keys: Sequence[bytes]) -> Float32:
        """See `LogitCache`."""
        return np.fromiter((self._find(key) for key in keys), np.float32, len(keys))

    async def put(self, keys: Sequence[bytes], logits: Float32) -> None:
        """See `LogitCache`."""
        for key, logit in zip(keys, logits.tolist(), strict=True):
            self._logits[key] = logit
            self._logits.move_to_end(key)
        while len(self._logits) > self._limit:
            self._logits.popitem(last=False)

    def _find(self, key: bytes) -> float:
        logit = self._logits.get(key)
        if logit is None:
            return np.nan
        self._logits.move_to_end(key)
        return logit


class TieredCache:
    """`near` first, `far` for what it does not hold; what `far` knew is kept near."""

    def __init__(self, near: LogitCache, far: LogitCache) -> None:
        self._near = near
        self._far = far

    async def get(self, keys: Sequence[bytes]) -> Float32:
        """See `LogitCache`."""
        logits = await self._near.get(keys)
        missing = np.flatnonzero(np.isnan(logits)).tolist()
        if not missing:
            return logits
        found = await self._far.get([keys[row] for row in missing])
        logits[missing] = found
        held = ~np.isnan(found)
        await self._near.put([keys[row] for row, here in zip(missing, held, strict=True) if here], found[held])
        return logits

    async def put(self, keys: Sequence[bytes], logits: Float32) -> None:
        """See `LogitCache`."""
        await self._near.put(keys, logits)
        await self._far.put(keys, logits)
