"""Which questions a tenant is calibrated on: a labelled file, or what was really asked. Ray-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from tenants.records import Owner

LIMIT = 4_000  # newest questions of the audit; more would certify nothing better


@dataclass(frozen=True, slots=True)
class Asked:
    """One question; `grades` {document: grade}, None = nobody judged it."""

    query_id: str
    text: str
    grades: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Questions:
    """`source` is labels or traffic; `digest` names them."""

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
