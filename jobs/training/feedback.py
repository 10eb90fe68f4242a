"""Tenants' feedback as mined questions: what their users found useful, against what their own first stage finds.

    feedback + audit records → showings → opinions (`opinions`) → search today (`searching`) → Mined

Each tenant is read through its own scope and mined over its own index, and its passages stay in tables of their own:
no group holds passages of two tenants. Feedback of several tenants meets in one model only if all of them opted in
(`feedback.pool`). Every tenth question, by its digest, is dev. Questions whose text was erased or has expired, and
chunks that are gone, are left out. Few questions are searched in this process, for Ray's workers take longer to start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3

from jobs.training.mining import PASSAGES, POSITIVES, QUESTIONS, Mined
from jobs.training.opinions import KINDS, Ledger, Opinion, Showing, question_key, showing_of
from jobs.training.order import Order
from jobs.training.pipeline import search_on_ray
from jobs.training.searching import Searcher
from services.audit.reading import AuditReader
from services.settings import Settings
from tenants.corpus.release import pinned
from tenants.database import Database
from tenants.errors import InvalidInput
from tenants.ids import DIGEST_CHARS, tenant_name
from tenants.records import Feedback, Tenant
from tenants.rows import MAX_PAGE
from tenants.scope import TenantScope
from tenants.store import Store

DEV_EVERY = 10
HARDEST = 4  # refused chunks stand behind so many: hard negatives begin at the fifth fused rank
INLINE = 200  # questions: searched here sooner than on Ray
RECORDS = 500_000  # audit records that are read at most to count showings without feedback
WEIGHTS = (0.1, 10.0)  # a question's weight at least and at most; 1 = the mean of clicked questions, or called relevant

Report = Callable[[str], None]


def feedback_tenants(store: Store, order: Order) -> list[Tenant]:
    """Whose feedback the order may learn from. Raises `InvalidInput` naming who has not opted in, `NotFound`."""
    if order.pooled:
        found = [one for one in store.list_tenants() if one.state == "active" and one.config.feedback.pool]
        if not found:
            raise InvalidInput.field("/pooled", "no tenant opted in; a tenant does with feedback: {pool: true}")
        return found
    found = [store.get_tenant(tenant_name(name)) for name in order.tenants]
    for one in found:
        store.check_open(one)
    closed = [one.name for one in found if not one.config.feedback.pool]
    if len(found) > 1 and closed:
        fault = f"{', '.join(closed)} did not opt in to pooling; set feedback: {{pool: true}} there, or train apart"
        raise InvalidInput.field("/tenant", fault)
    return found


def mine_all(store: Store, order: Order, tenants: Sequence[Tenant], settings: Settings, report: Report) -> list[Mined]:
    """Every tenant's questions, apart. Of pooled tenants those that have none are passed over, but not all of them.

    Raises `InvalidInput` for a named tenant without an index, or without feedback to learn from.
    """
    mined, faults = list[Mined](), list[InvalidInput]()
    for tenant in tenants:
        # A model that others use says of whom it learned by a name that only the operator can resolve.
        name = f"feedback-{tenant.name if order.owner else tenant.uid}"
        try:
            mined.append(mine_feedback(store, tenant, settings, name, report))
        except InvalidInput as error:
            if not order.pooled:
                raise
            faults.append(error)
            report(error.detail)
    if not mined and faults:
        raise faults[0]
    return mined


def mine_feedback(store: Store, tenant: Tenant, settings: Settings, name: str, report: Report) -> Mined:
    """One tenant's. Raises `InvalidInput` when it has no index, or no feedback that names a shown chunk."""
    scope = pinned(store.scope_of(tenant, settings.root))
    if scope.release is None:
        raise InvalidInput.field("/tenant", f"{tenant.name} has no published index; index documents first")
    with closing(Database(settings.audit_url)) as database:
        ledger = read_ledger(store, AuditReader(database), scope)
    looks = ledger.examination()
    opinions = ledger.opinions(looks)
    if not opinions:
        fault = f"{tenant.name} has no feedback that calls a shown chunk relevant, or clicks one"
        raise InvalidInput.field("/tenant", fault)
    seen = ", ".join(f"{looks[kind].at(5):.2f} in a {kind} ({looks[kind].clicks} clicks tell)" for kind in KINDS)
    report(f"{tenant.name}: {len(opinions)} questions with feedback; rank 5 is looked at {seen}, rank 1 being 1")
    return mined_of(opinions, find(opinions, scope, settings), name)


def read_ledger(store: Store, audit: AuditReader, scope: TenantScope) -> Ledger:
    """All that the tenant's feedback says, with how often what was clicked stood where."""
    judged = read_showings(store, audit, scope)
    ledger = Ledger(judged.values())
    records = islice(audit.export(scope.uid), RECORDS) if ledger.clicks else iter(())
    silent = (one for one in records if one.get("state") == "complete" and one["query_id"] not in judged)
    for showing in filter(None, map(showing_of, silent)):
        ledger.count(showing)
    return ledger


def read_showings(store: Store, audit: AuditReader, scope: TenantScope) -> dict[str, Showing]:
    """{query id: what was shown and marked}; a page of feedback is in memory at a time."""
    found: dict[str, Showing] = {}
    for page in _pages(store, scope):
        for record in audit.read_many(scope.uid, {one.query_id for one in page} - found.keys()):
            if (showing := showing_of(record)) is not None:
                found[record["query_id"]] = showing
        for one in page:
            if one.query_id in found:
                found[one.query_id].mark(one.body)
    return found


def find(opinions: Sequence[Opinion], scope: TenantScope, settings: Settings) -> pa.Table:
    """What today's index finds for every question, see `searching.FOUND`."""
    texts = [opinion.text for opinion in opinions]
    if len(texts) > INLINE:
        return search_on_ray(texts, scope, settings)
    with closing(Searcher(scope, settings)) as searcher:
        return searcher.search(range(len(texts)), texts)


def mined_of(opinions: Sequence[Opinion], found: pa.Table, name: str) -> Mined:
    """Opinions over what was found. Raises `InvalidInput` when no positive is found any more."""
    place: dict[str, int] = {}
    texts: dict[str, str] = {}
    rows = list[dict[str, Any]]()
    for batch in found.to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            for chunk, text in zip(row["chunks"], row["texts"], strict=True):
                place.setdefault(chunk, len(place))
                if text is not None:
                    texts[chunk] = text
            rows.append(_row(opinions[row["number"]], dict(zip(row["chunks"], row["fused"], strict=True)), place))
    rows = _weighed([row for row in rows if row["positives"]])
    if not rows:
        raise InvalidInput.field("/tenant", "no chunk that the feedback likes is found today; index it again")
    told = [{"document_id": chunk, "text": texts[chunk], "reserved": False} for chunk in place]
    return Mined(
        name,
        _digest(opinions),
        "the tenant's own",
        pa.Table.from_pylist(told, schema=PASSAGES),  # a document is a chunk here: that is what opinions are about
        pa.Table.from_pylist(rows, schema=QUESTIONS),
        held_out="questions",
    )


def _pages(store: Store, scope: TenantScope) -> Iterator[list[Feedback]]:
    cursor: str | None = None
    while True:
        page, cursor = store.list_feedback(scope, cursor, MAX_PAGE)
        yield page
        if cursor is None:
            return


def _row(opinion: Opinion, ranked: Mapping[str, float], place: Mapping[str, int]) -> dict[str, Any]:
    """As QUESTIONS; `weight` None = by its clicks, which `raw` sums."""
    dev = int(blake3(question_key(opinion.text).encode()).hexdigest(), 16) % DEV_EVERY == 0
    positives = [chunk for chunk in opinion.positives if chunk in ranked][: None if dev else POSITIVES]
    refused = [chunk for chunk in opinion.refused if chunk in ranked]
    kept = list(ranked) if dev else _negatives(opinion, refused, ranked)
    return {
        "text": opinion.text,
        "split": "dev" if dev else "train",
        "positives": [place[chunk] for chunk in positives],
        "ranking": [place[chunk] for chunk in kept],
        "fused": [ranked[chunk] for chunk in kept],
        "taught": [],
        "refused": [place[chunk] for chunk in refused],
        "weight": None if opinion.clicks else 1.0,
        "raw": sum(opinion.positives[chunk] for chunk in positives),
    }


def _negatives(opinion: Opinion, refused: Sequence[str], ranked: Iterable[str]) -> list[str]:
    """The fused order without positives and doubtful ones; what was refused comes where hard negatives begin."""
    apart = {*opinion.positives, *opinion.unsure, *refused}
    others = [chunk for chunk in ranked if chunk not in apart]
    return [*others[:HARDEST], *refused, *others[HARDEST:]]


def _weighed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Weights of clicked questions, divided by their mean: clicks are as loud as what was called relevant.

    Self-normalised as in Swaminathan, Joachims, "The self-normalized estimator for counterfactual learning", 2015.
    """
    raw = [row["raw"] for row in rows if row["weight"] is None]
    mean = float(np.mean(raw)) if raw else 1.0
    for row in rows:
        value = row.pop("raw") / mean
        row["weight"] = float(np.clip(value, *WEIGHTS)) if row["weight"] is None else row["weight"]
    return rows


def _digest(opinions: Iterable[Opinion]) -> str:
    told = sorted(
        (one.text, sorted((chunk, round(worth, 6)) for chunk, worth in one.positives.items()), one.refused)
        for one in opinions
    )
    return blake3(repr(told).encode()).hexdigest()[:DIGEST_CHARS]
