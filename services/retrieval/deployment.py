"""The Retriever as a Serve deployment: `LocalRetriever` and its encoders in a replica of their own.

`cluster/app.py` gives it replicas, a share of a GPU and autoscaling; this file knows only how it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray import serve

from services import deadline
from services.contracts import Candidates, Float32, Question
from services.handles import hold_to_loopback
from services.retrieval.local import open_retriever
from services.settings import Settings
from tenants.scope import TenantScope


@serve.deployment
class RetrieverDeployment:
    """One replica: ready once the default embedder is loaded."""

    def __init__(self, settings: Settings) -> None:
        hold_to_loopback(settings.host)
        self._retriever = open_retriever(settings)

    async def retrieve(self, scope: TenantScope, question: Question, timeout_s: float | None) -> Candidates:
        """`contracts.Retriever.retrieve` within `timeout_s` seconds."""
        if timeout_s is not None:
            deadline.start(timeout_s)
        async with deadline.enforced():
            return await self._retriever.retrieve(scope, question)

    async def embed(self, model: str, texts: Sequence[str], timeout_s: float | None) -> Float32:
        """`contracts.Retriever.embed` within `timeout_s` seconds."""
        if timeout_s is not None:
            deadline.start(timeout_s)
        async with deadline.enforced():
            return await self._retriever.embed(model, texts)
