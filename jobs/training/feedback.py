"""A tenant's feedback as mined questions: what its users called relevant, against what its own first stage found.

Chunks marked `relevant` (else `clicked`) are positives; `irrelevant` ones are its hardest negatives. Every tenth
question, by its digest, is dev. Questions whose text was erased, or whose chunks are gone, are left out. Nothing of
it leaves the tenant: what is trained on it is that tenant's model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from blake3 import blake3

from jobs.training.mining import PASSAGES, POSITIVES, QUESTIONS, Mined
from services.audit.reading import AuditReader
from services.contracts import Passage, Question, Retriever
from services.retrieval.fusion import fuse, profile_of
from services.retrieval.lexical import lexical
from services.retrieval.local import open_retriever
from services.settings import Settings
from tenants.corpus.release import pinned
from tenants.database import Database
from tenants.errors import InvalidInput, NotFound
from tenants.ids import DIGEST_CHARS, tenant_name
from tenants.scope import TenantScope
from tenants.store import Store

DEV_EVERY = 10
HARDEST = 4  # irrelevant chunks stand behind so many: hard negatives begin at the fifth fused rank


@dataclass(slots=True)
class Opinion:
    """What was said about one question, by all who said something."""

    relevant: dict[str, None] = field(default_factory=dict)
    irrelevant: dict[str, None] = field(default_factory=dict)

    def add(self, body: Mapping[str, Any]) -> None:
        """One feedback's chunks; a click counts when nothing was called relevant."""
        self.relevant.update(dict.fromkeys(body.get("relevant") or body.get("clicked") or ()))
        self.irrelevant.update(dict.fromkeys(body.get("irrelevant") or ()))


def mine_feedback(store: Store, tenant: str, settings: Settings) -> Mined:
    """Raises `InvalidInput` when the tenant has no index, or no feedback that names a relevant chunk."""
    scope = pinned(store.scope_of(store.get_tenant(tenant_name(tenant)), settings.root))
    if scope.release is None:
        raise InvalidInput.field("/tenant", f"{tenant} has no published index; index documents first")
    opinions = read_opinions(store, AuditReader(Database(settings.audit_url)), scope)
    if not opinions:
        raise InvalidInput.field("/tenant", f"{tenant} has no feedback that names a relevant chunk")
    return asyncio.run(mine_opinions(opinions, scope, open_retriever(settings)))


def read_opinions(store: Store, audit: AuditReader, scope: TenantScope) -> dict[str, Opinion]:
    """{question: opinion} of the tenant's own feedback, where a chunk was called relevant."""
    found: dict[str, Opinion] = {}
    for query_id, body in _feedback(store, scope):
        try:
            text = audit.read(scope.uid, query_id)["texts"].get("query")
        except NotFound:
            continue  # its record has expired
        if text:
            found.setdefault(text, Opinion()).add(body)
    return {text: opinion for text, opinion in found.items() if opinion.relevant}


async def mine_opinions(opinions: Mapping[str, Opinion], scope: TenantScope, retriever: Retriever) -> Mined:
    """Search every question as it would be answered today."""
    passages: dict[str, Passage] = {}
    rows = []
    for text, opinion in opinions.items():
        found = await retriever.retrieve(scope, Question(text))
        fused = fuse(found, "hybrid", profile_of(scope))
        ranked = {found.passages[row].chunk_id: float(fused.score[row]) for row in fused.order.tolist()}
        passages.update({one.chunk_id: one for one in found.passages})
        rows.append((text, opinion, ranked))
    number = {chunk: row for row, chunk in enumerate(passages)}
    table = [_row(text, opinion, ranked, number) for text, opinion, ranked in rows]
    table = [row for row in table if row["positives"]]
    if not table:
        raise InvalidInput.field("/tenant", "no chunk that the feedback calls relevant is found today; index it again")
    return Mined(
        f"feedback-{scope.tenant}",
        _digest(opinions),
        "the tenant's own",
        pa.Table.from_pylist([_passage(one) for one in passages.values()], schema=PASSAGES),
        pa.Table.from_pylist(table, schema=QUESTIONS),
    )


def _feedback(store: Store, scope: TenantScope) -> Iterator[tuple[str, Mapping[str, Any]]]:
    cursor: str | None = None
    while True:
        page, cursor = store.list_feedback(scope, cursor)
        yield from ((one.query_id, one.body) for one in page)
        if cursor is None:
            return


def _row(text: str, opinion: Opinion, ranked: Mapping[str, float], number: Mapping[str, int]) -> dict[str, Any]:
    dev = int(blake3(text.encode()).hexdigest(), 16) % DEV_EVERY == 0
    positives = [chunk for chunk in ranked if chunk in opinion.relevant]
    kept = list(ranked) if dev else _negatives(opinion, ranked)
    return {
        "text": text,
        "split": "dev" if dev else "train",
        "positives": [number[chunk] for chunk in (positives if dev else positives[:POSITIVES])],
        "ranking": [number[chunk] for chunk in kept],
        "fused": [ranked[chunk] for chunk in kept],
        "taught": [],
    }


def _negatives(opinion: Opinion, ranked: Mapping[str, float]) -> list[str]:
    """The fused order without relevant chunks; what was called irrelevant comes where hard negatives begin."""
    others = [chunk for chunk in ranked if chunk not in opinion.relevant and chunk not in opinion.irrelevant]
    worst = [chunk for chunk in ranked if chunk in opinion.irrelevant and chunk not in opinion.relevant]
    return [*others[:HARDEST], *worst, *others[HARDEST:]]


def _passage(one: Passage) -> dict[str, Any]:
    return {
        "document_id": one.chunk_id,  # an opinion is about a chunk
        "text": lexical(one.title, one.heading, one.text),
        "reserved": False,
    }


def _digest(opinions: Mapping[str, Opinion]) -> str:
    told = sorted((text, sorted(one.relevant), sorted(one.irrelevant)) for text, one in opinions.items())
    return blake3(repr(told).encode()).hexdigest()[:DIGEST_CHARS]
