"""Questions of users → what the tenant's own first stage finds for them today. Ray-free.

Own documents only: a shared collection is lent for answers, not for training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from services.contracts import Question, Retriever
from services.retrieval.fusion import fuse, profile_of
from services.retrieval.lexical import lexical
from services.retrieval.local import open_retriever
from services.settings import Settings
from tenants.scope import TenantScope

AT_ONCE = 4  # questions that one process searches

# One row a question: chunk ids by falling fused score; the text of each that both legs read, null = an earlier row of
# the same batch tells it (the same chunk is found for many questions).
FOUND = pa.schema(
    [
        ("number", pa.int64()),
        ("chunks", pa.list_(pa.string())),
        ("fused", pa.list_(pa.float32())),
        ("texts", pa.list_(pa.string())),
    ]
)


async def search(numbers: Sequence[int], texts: Sequence[str], scope: TenantScope, retriever: Retriever) -> pa.Table:
    """A batch of questions as FOUND, `numbers` theirs. Raises what the retriever raises."""
    own, turn = replace(scope, shared=()), asyncio.Semaphore(AT_ONCE)

    async def one(text: str) -> dict[str, Any]:
        async with turn:
            found = await retriever.retrieve(own, Question(text))
        fused = fuse(found, "hybrid", profile_of(own))
        passages = [found.passages[row] for row in fused.order.tolist()]
        return {
            "chunks": [passage.chunk_id for passage in passages],
            "fused": fused.score[fused.order].tolist(),
            "texts": [lexical(passage.title, passage.heading, passage.text) for passage in passages],
        }

    rows = await asyncio.gather(*map(one, texts))
    told: set[str] = set()
    for number, row in zip(numbers, rows, strict=True):
        row["number"] = number
        row["texts"] = [None if name in told else text for name, text in zip(row["chunks"], row["texts"], strict=True)]
        told.update(row["chunks"])
    return pa.Table.from_pylist(rows, schema=FOUND)


class Searcher:
    """Holds a retriever and the loop that it lives in."""

    def __init__(self, scope: TenantScope, settings: Settings) -> None:
        self._scope = scope
        self._runner = asyncio.Runner()
        self._retriever = self._runner.run(asyncio.to_thread(open_retriever, settings))

    def search(self, numbers: Sequence[int], texts: Sequence[str]) -> pa.Table:
        """See `search`."""
        return self._runner.run(search(numbers, texts, self._scope, self._retriever))

    def close(self) -> None:
        """Let everything go."""
        self._runner.run(self._retriever.close())
        self._runner.close()
