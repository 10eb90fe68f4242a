"""Which questions a tenant is calibrated on: a labelled file, its users' clicks, or what was really asked. Ray-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from jobs.evaluation.datasets import Dataset, load_dataset
from services.audit.log import open_audit_log
from services.audit.reading import AuditReader
from services.settings import Settings
from tenants.database import Database
from tenants.errors import InvalidInput
from tenants.records import Owner, Tenant
from tenants.store import Store

LIMIT = 4_000  # newest questions of the audit; more would certify nothing better


@dataclass(frozen=True, slots=True)
class Asked:
    """One question; `grades` {document: grade}, None = nobody judged it."""

    query_id: str
    text: str
    grades: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Questions:
    """`source` is labels, feedback or traffic; `digest` names them."""

    asked: tuple[Asked, ...]
    source: str
    digest: str

    def first(self, limit: int | None) -> Questions:
        """At most `limit` of them."""
        return Questions(self.asked[:limit], self.source, self.digest)


def labelled(dataset: Dataset) -> Questions:
    """Every judged question that some document answers, each text once."""
    good = {
        query: grades for query, grades in dataset.judgements.items() if any(grade > 0 for grade in grades.values())
    }
    asked = (Asked(query, dataset.queries[query], grades) for query, grades in good.items())
    return Questions(_distinct(asked), "labels", dataset.digest)


def from_audit(records: Iterable[Mapping[str, Any]], limit: int = LIMIT) -> Questions:
    """The newest questions whose text the audit still holds, each text once; `records` in the order of writing."""
    known = [
        (str(record.get("at", "")), Asked(str(record["query_id"]), text))
        for record in records
        if (text := (record.get("texts") or {}).get("query"))
    ]
    newest = sorted(known, key=lambda item: item[0], reverse=True)
    asked = _distinct(one for _, one in newest)[:limit]
    digest = blake3("\n".join(sorted(one.query_id for one in asked)).encode()).hexdigest()[:32]
    return Questions(asked, "traffic", digest)


def from_feedback(records: Iterable[Mapping[str, Any]], said: Mapping[str, Sequence[str]]) -> Questions:
    """Questions whose users clicked, or called something relevant: `said` {query id: chunk ids}, of those shown.

    A document counts as relevant when one of its chunks was; what nobody was shown nobody could judge, so figures are
    about what users saw. The same question asked again adds up.
    """
    grades: dict[str, dict[str, int]] = {}
    first: dict[str, tuple[str, str]] = {}
    for record in records:
        text = (record.get("texts") or {}).get("query")
        shown = set(record.get("evidence", ()))
        columns = record["candidates"]
        owner = dict(zip(columns["chunk_id"], columns["document_id"], strict=True))
        good = {owner[chunk] for chunk in said.get(record["query_id"], ()) if chunk in shown and chunk in owner}
        if not text or not good:
            continue
        key = " ".join(text.lower().split())
        first.setdefault(key, (str(record["query_id"]), text))
        grades.setdefault(key, {}).update(dict.fromkeys(good, 1))
    asked = tuple(Asked(*first[key], grades[key]) for key in grades)
    digest = blake3("\n".join(sorted(one.query_id for one in asked)).encode()).hexdigest()[:32]
    return Questions(asked, "feedback", digest)


def read_feedback(settings: Settings, store: Store, tenant: Tenant) -> Questions:
    """Of the tenant's own feedback. Raises `InvalidInput` when there is none."""
    said: dict[str, list[str]] = {}
    for one in store.feedback_since(tenant, tenant.created_at):
        said.setdefault(one.query_id, []).extend(one.body.get("relevant") or one.body.get("clicked") or ())
    open_audit_log(settings.audit_url)  # makes its tables where nothing was ever asked
    reader = AuditReader(Database(settings.audit_url))
    found = from_feedback(reader.read_many(tenant.uid, list(said)), said)
    if not found.asked:
        raise InvalidInput(f"{tenant.name} has no feedback that names a passage; calibrate on files, or on traffic")
    return found


def _distinct(asked: Iterable[Asked]) -> tuple[Asked, ...]:
    # A question that stands on both sides of the split would be certified on what it was fitted to.
    return tuple({" ".join(one.text.lower().split()): one for one in asked}.values())


def read_questions(settings: Settings, tenant: Owner, queries: Path | None, qrels: Path | None) -> Questions:
    """Of both files, or without them of the tenant's own audit. Raises `InvalidInput` for one file alone."""
    if (queries is None) != (qrels is None):
        raise InvalidInput(
            "--queries and --qrels belong together; give both, or neither for the questions of the audit"
        )
    if queries is not None and qrels is not None:
        return labelled(load_dataset(queries, qrels))
    open_audit_log(settings.audit_url)  # makes its tables where nothing was ever asked
    return from_audit(AuditReader(Database(settings.audit_url)).export(tenant.uid))
