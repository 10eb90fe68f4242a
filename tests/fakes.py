"""Small stand-ins for the steps of the ask line, for tests of what stands around them.

`from tests import fakes`. Each says why it suffices; what a step itself promises is tested on the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from blake3 import blake3

from services.contracts import (
    AnswerEvent,
    AuditRecord,
    Candidates,
    Citation,
    CrossEncoderFacts,
    Draft,
    Evidence,
    Float32,
    Passage,
    Question,
    Scored,
    Span,
)
from services.evidence.text import content
from tenants.config import TenantConfig
from tenants.errors import Unavailable
from tenants.ids import TenantName, TenantUid
from tenants.scope import Release, TenantScope

DIMENSION = 64


def passage(number: int, text: str, document: str | None = None, **fields: Any) -> Passage:
    """A chunk that is a whole document, unless `span` says otherwise."""
    defaults: dict[str, Any] = {
        "chunk_id": f"c_{number:032x}",
        "document_id": document or f"doc-{number}",
        "title": "",
        "heading": "",
        "text": text,
        "collection": "default",
        "ordinal": 0,
        "span": Span(0, len(text)),
        "url": None,
        "updated_at": None,
        "metadata": {},
        "tokens": len(text.split()),
    }
    return Passage(**(defaults | fields))


def scope(root: str = "unused", **config: Any) -> TenantScope:
    """A tenant with a published version 1."""
    release = Release(
        version=1,
        table="chunks_fake",
        lance_version=1,
        fingerprint="fake",
        embedder="builtin",
        dimension=DIMENSION,
        published_at="2026-01-01T00:00:00+00:00",
        documents=1,
        chunks=1,
        tokens=1,
        manifest="",
        manifest_digest="",
        job_id="job_fake",
    )
    settings = TenantConfig.model_validate(config)
    return TenantScope(TenantName("acme"), TenantUid("t_" + "0" * 20), settings, root, release)


def embed(texts: Sequence[str]) -> Float32:
    """(n, 64) float32 unit rows: a hashed bag of words, so that texts that share words are close."""
    rows = np.full((len(texts), DIMENSION), 1e-3, dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in content(text):
            row[int.from_bytes(blake3(word.encode()).digest()[:4], "big") % DIMENSION] += 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass
class FakeRetriever:
    """Searches a list of passages by shared words.

    Suffices wherever only the shape of candidates matters: both legs' scores, ranks and vectors are consistent
    with each other and deterministic. `broken` raises what a dead retriever raises.
    """

    passages: Sequence[Passage] = ()
    broken: bool = False
    legs: tuple[str, ...] = ("dense", "sparse")

    async def retrieve(self, scope: TenantScope, question: Question) -> Candidates:
        if self.broken:
            raise Unavailable("the retriever does not answer", retry_after_s=1)
        vectors, query = await self.embed("builtin", [one.text for one in self.passages]), embed([question.text])[0]
        dense = (vectors @ query).astype(np.float32)
        terms = set(content(question.text))
        sparse = np.array([len(terms & set(content(one.text))) for one in self.passages], dtype=np.float32)
        return Candidates(
            passages=tuple(self.passages),
            dense=dense,
            sparse=sparse,
            dense_rank=_ranks(dense),
            sparse_rank=np.where(sparse > 0, _ranks(sparse), 0).astype(np.int32),
            vectors=vectors,
            query_vector=query,
            legs=self.legs,
            timings_ms={"embed": 1.0, "search": 2.0},
        )

    async def embed(self, model: str, texts: Sequence[str]) -> Float32:
        return embed(texts) if texts else np.zeros((0, DIMENSION), dtype=np.float32)


def _ranks(scores: Float32) -> Any:
    ranks = np.empty(len(scores), dtype=np.int32)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


@dataclass
class FakeScorer:
    """Says how many of the question's words a passage holds, minus two.

    Suffices wherever only the order of logits and the errors of a scorer matter. `failure` is what every call raises;
    `asked` keeps (reference, number of passages) of each.
    """

    failure: Exception | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def facts(self, scope: TenantScope, reference: str) -> CrossEncoderFacts:
        if self.failure is not None:
            raise self.failure
        return CrossEncoderFacts(reference, "0123456789abcdef", "int8", "t", (128,), (1.0,), (0.1,))

    async def score(
        self, scope: TenantScope, reference: str, query: str, passages: Sequence[Passage], partial: bool = False
    ) -> Scored:
        self.asked.append((reference, len(passages)))
        if self.failure is not None:
            raise self.failure
        terms = set(content(query))
        logits = np.array([len(terms & set(content(one.text))) - 2 for one in passages], dtype=np.float32)
        return Scored(logits, np.zeros(len(passages), dtype=np.bool_), 1.0)


@dataclass
class FakeAnswerer:
    """Cites the whole first passage, or abstains without one: the smallest answerer that keeps the contract.

    Suffices where the answer's words do not matter. `silent` ends without a draft, which no answerer may do.
    """

    silent: bool = False

    async def answer(
        self, scope: TenantScope, question: Question, evidence: Evidence, candidates: Candidates
    ) -> AsyncGenerator[AnswerEvent]:
        if self.silent:
            return
        if not evidence.passages:
            yield AnswerEvent("answer", draft=Draft("This does not answer.", "abstained", "fake", ()))
            return
        first = evidence.passages[0]
        span = (first.span.char_start, first.span.char_end)
        citation = Citation(
            1, first.chunk_id, first.document_id, first.title, first.url, first.text, *span, None, 0, len(first.text)
        )
        yield AnswerEvent("token", text=f"{first.text} [1]")
        yield AnswerEvent("citation", citation=citation)
        yield AnswerEvent("answer", draft=Draft(f"{first.text} [1]", "full", "fake", (citation,)))


@dataclass
class MemoryAuditLog:
    """Keeps records in a list. Suffices where only what is written, and when, matters.

    `gate` holds every append until it is set, so that a test can see what left before it; `broken` refuses.
    """

    records: list[AuditRecord] = field(default_factory=list)
    gate: asyncio.Event | None = None
    broken: bool = False

    async def append(self, scope: TenantScope, record: AuditRecord) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise Unavailable("the audit log cannot be written", retry_after_s=1)
        self.records.append(record)
