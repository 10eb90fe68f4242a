"""Reading and tending the audit log: one record, the whole chain's check, expiry, erasure, export.

Every function is handed the tenant's uid from its scope, and no statement here is without it: a record of
another tenant is as unknown as one that never was. Synchronous; call it in a thread from a request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Table, and_, delete, func, select

from services.audit.chain import GENESIS, Fault, Head, Link, Stored, StoredText, faults_of, unpack
from services.audit.tables import (
    CHAIN,
    DELETED,
    FACTS,
    HEADS,
    OUTCOMES,
    SOURCES,
    TABLES,
    TEXTS,
    deleted_tenant,
    hold_off_appends,
    of_documents,
    shared_document,
)
from tenants.database import Database
from tenants.errors import NotFound

_PAGE = 256
_ANSWER = "answer"
SHADOW = "shadow"  # the state of a shadow rerank's record
RIVAL = "rival"  # the state of a record of what an experiment's other arm would have shown
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class ChainReport:
    """`faults` empty = everything is as it was written. `texts_gone` were erased or expired, which is no fault."""

    writers: int
    records: int
    texts: int
    texts_gone: int
    faults: tuple[Fault, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing was changed, removed or reordered."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """One row of audit_outcomes, see `contracts.Outcome`."""

    uid: str
    query_id: str
    arm: str
    unit: str
    at_ms: int
    values: Mapping[str, Any]


class AuditReader:
    """The other half of SqlAuditLog, over the same database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, uid: str, query_id: str) -> dict[str, Any]:
        """The tenant's record of one question, texts that are still there included; raises `NotFound`."""
        with self._database.reading() as connection:
            where = and_(CHAIN.c.uid == uid, CHAIN.c.query_id == query_id)
            rows = connection.execute(select(CHAIN).where(where).order_by(CHAIN.c.writer, CHAIN.c.seq)).all()
            records = [_record_json(stored) for stored in _stored(connection, rows)]
        told = _told(records)
        if told is None:
            raise NotFound(f"there is no query {query_id}; ids are in the answers' query_id")
        return told

    def read_many(self, uid: str, query_ids: Collection[str]) -> Iterator[dict[str, Any]]:
        """As `read`, a page at a time, by query id; what there is no record of is left out."""
        wanted = sorted(set(query_ids))
        for start in range(0, len(wanted), _PAGE):
            where = and_(CHAIN.c.uid == uid, CHAIN.c.query_id.in_(wanted[start : start + _PAGE]))
            of_query: dict[str, list[dict[str, Any]]] = {}
            with self._database.reading() as connection:
                rows = connection.execute(select(CHAIN).where(where).order_by(CHAIN.c.writer, CHAIN.c.seq)).all()
                for stored in _stored(connection, rows):
                    of_query.setdefault(stored.link.query_id, []).append(_record_json(stored))
            found = (_told(of_query[name]) for name in sorted(of_query))
            yield from (told for told in found if told is not None)

    def outcomes(
        self, uid: str, *, experiment: str | None = None, units: Collection[str] = (), until_ms: int | None = None
    ) -> Iterator[StoredOutcome]:
        """By time: those of an experiment, or (without one) the past of `units` before `until_ms`."""
        if experiment is not None:
            wheres = [OUTCOMES.c.experiment == experiment]
        else:
            some = [sorted(units)[start : start + _PAGE] for start in range(0, len(units), _PAGE)]
            wheres = [and_(OUTCOMES.c.unit.in_(page), OUTCOMES.c.at_ms < (until_ms or 0)) for page in some]
        with self._database.snapshot() as connection:
            for where in wheres:
                ours = select(OUTCOMES).where(OUTCOMES.c.uid == uid, where)
                for row in connection.execute(ours.order_by(OUTCOMES.c.at_ms, OUTCOMES.c.query_id)):
                    yield _outcome(row)

    def units_since(self, uid: str, since_ms: int) -> dict[str, list[StoredOutcome]]:
        """{unit: its outcomes by time}, of every unit that is known by more than one request."""
        ours = select(OUTCOMES).where(OUTCOMES.c.uid == uid, OUTCOMES.c.at_ms >= since_ms, OUTCOMES.c.unit != "")
        found: dict[str, list[StoredOutcome]] = {}
        with self._database.snapshot() as connection:
            for row in connection.execute(ours.order_by(OUTCOMES.c.at_ms)):
                found.setdefault(row.unit, []).append(_outcome(row))
        return found

    def export(self, uid: str) -> Iterator[dict[str, Any]]:
        """Every record of the tenant, chain by chain in the order of writing."""
        with self._database.snapshot() as connection:
            for stored in _walk(connection, uid):
                yield _record_json(stored)

    def verify_chain(self, uid: str, anchors: Sequence[Head] = ()) -> ChainReport:
        """Check every link, fact, text and head of the tenant, as they were at one moment: questions may go on.

        `anchors` are heads that were kept elsewhere: a chain that lacks one of them was cut or rewritten.
        """
        faults, records, texts, named = list[Fault](), 0, 0, 0
        last: dict[str, Head] = {}
        seen: set[tuple[str, int, bytes]] = set()
        with self._database.snapshot() as connection:
            for stored in _walk(connection, uid):
                link = stored.link
                wrong = faults_of(stored, last.get(link.writer, Head(uid, link.writer, 0, GENESIS)))
                faults.extend(wrong)
                last[link.writer] = Head(uid, link.writer, link.seq, link.hash)
                seen.add((link.writer, link.seq, link.hash))
                records, texts = records + 1, texts + len(stored.texts)
                named += len(stored.texts) if wrong else _named(stored)
            faults.extend(_head_faults(_heads(connection, uid), last))
            faults.extend(_strays(connection, uid))
        faults.extend(
            Fault(anchor.writer, anchor.seq, "the chain does not hold the anchor: it was cut or rewritten")
            for anchor in anchors
            if anchor.uid == uid and (anchor.writer, anchor.seq, anchor.hash) not in seen
        )
        return ChainReport(len(last), records, texts, max(0, named - texts), tuple(faults))

    def heads(self, uid: str) -> tuple[Head, ...]:
        """The tenant's chains' ends; kept elsewhere they are anchors for `verify_chain`."""
        with self._database.reading() as connection:
            return tuple(_heads(connection, uid).values())

    def expire(self, uid: str, retention_days: int, now_ms: int) -> int:
        """Delete the texts and outcomes of records older than `retention_days`; returns how many texts."""
        old = select(CHAIN.c.writer, CHAIN.c.seq).where(
            CHAIN.c.uid == uid, CHAIN.c.at_ms < now_ms - retention_days * _DAY_MS
        )
        with self._database.writing() as connection:
            gone = connection.execute(
                delete(TEXTS).where(TEXTS.c.uid == uid, _in(TEXTS, old)),
            ).rowcount
            past = OUTCOMES.c.at_ms < now_ms - retention_days * _DAY_MS
            connection.execute(delete(OUTCOMES).where(OUTCOMES.c.uid == uid, past))
        self._database.forget()
        return gone

    def erase_documents(self, uid: str, document_ids: Sequence[str]) -> int:
        """Delete the documents' quotes and every answer they went into; returns how many texts.

        Subscribers' records of a shared collection lose them, too.
        """
        gone = 0
        with self._database.writing() as connection:
            for start in range(0, len(document_ids), _PAGE):
                some = document_ids[start : start + _PAGE]
                answers = select(SOURCES.c.writer, SOURCES.c.seq).where(of_documents(SOURCES, uid, some))
                quotes = delete(TEXTS).where(of_documents(TEXTS, uid, some))
                told = delete(TEXTS).where(TEXTS.c.uid == uid, TEXTS.c.slot == _ANSWER, _in(TEXTS, answers))
                gone += connection.execute(quotes).rowcount + connection.execute(told).rowcount
                gone += _erase_shared(connection, [shared_document(uid, one) for one in some])
        self._database.forget()
        return gone

    def uids(self) -> frozenset[str]:
        """Every tenant that has a record here, whether or not it still exists."""
        with self._database.reading() as connection:
            return frozenset(connection.execute(select(HEADS.c.uid).distinct()).scalars())

    def delete_tenant(self, uid: str) -> None:
        """Delete everything of the tenant's, chains included, and refuse what a question in flight may still append."""
        with self._database.writing() as connection:
            hold_off_appends(connection)
            tombstone = self._database.insert(DELETED).values(tenant=deleted_tenant(uid))
            connection.execute(tombstone.on_conflict_do_nothing())
            for table in TABLES:
                connection.execute(delete(table).where(table.c.uid == uid))
        self._database.forget()


def _told(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What the records of one query say, in the order of writing; None when nobody asked it."""
    asked = [record for record in records if record.get("state") not in (SHADOW, RIVAL)]
    if not asked:
        return None
    # A stream leaves two records, `streaming` and then `complete`: the later one tells more.
    told = next((record for record in reversed(asked) if record.get("state") == "complete"), asked[-1])
    shadows = [record[SHADOW] for record in records if record.get("state") == SHADOW]
    return told | {SHADOW: shadows[-1] if shadows else None}


def _outcome(row: Row[Any]) -> StoredOutcome:
    return StoredOutcome(row.uid, row.query_id, row.arm, row.unit, row.at_ms, msgspec.json.decode(row.body))


def _in(table: Table, keys: Any) -> Any:
    # EXISTS, since SQLite and PostgreSQL both plan it over the primary key; row values differ between them.
    inner = keys.subquery()
    return select(inner.c.seq).where(inner.c.writer == table.c.writer, inner.c.seq == table.c.seq).exists()


def _erase_shared(connection: Connection, documents: Sequence[str]) -> int:
    """In every tenant's records: who subscribed once may have unsubscribed since, so no list of them would do."""
    read = select(SOURCES.c.uid, SOURCES.c.writer, SOURCES.c.seq).where(SOURCES.c.document_id.in_(documents)).subquery()
    same = (read.c.uid == TEXTS.c.uid) & (read.c.writer == TEXTS.c.writer) & (read.c.seq == TEXTS.c.seq)
    told = delete(TEXTS).where(TEXTS.c.slot == _ANSWER, select(read.c.seq).where(same).exists())
    quotes = delete(TEXTS).where(TEXTS.c.document_id.in_(documents))
    return connection.execute(told).rowcount + connection.execute(quotes).rowcount


def _walk(connection: Connection, uid: str) -> Iterator[Stored]:
    writer, seq = "", 0
    while True:
        after = (CHAIN.c.writer > writer) | ((CHAIN.c.writer == writer) & (CHAIN.c.seq > seq))
        page = select(CHAIN).where(CHAIN.c.uid == uid, after).order_by(CHAIN.c.writer, CHAIN.c.seq).limit(_PAGE)
        rows = connection.execute(page).all()
        if not rows:
            return
        yield from _stored(connection, rows)
        writer, seq = rows[-1].writer, rows[-1].seq


def _stored(connection: Connection, rows: Sequence[Row[Any]]) -> Iterator[Stored]:
    """What belongs to `rows` of audit_chain, which are one tenant's, in their order."""
    for (uid, writer), group in groupby(rows, key=lambda row: (row.uid, row.writer)):
        links = [Link(*tuple(row)) for row in group]
        seqs = [link.seq for link in links]
        facts = {row.seq: row for row in _rows(connection, FACTS, uid, writer, seqs)}
        texts = _by_seq(_rows(connection, TEXTS, uid, writer, seqs))
        sources = _by_seq(_rows(connection, SOURCES, uid, writer, seqs))
        for link in links:
            fact = facts.get(link.seq)
            yield Stored(
                link,
                fact.salt if fact else None,
                fact.body if fact else None,
                tuple(StoredText(row.slot, row.document_id, row.salt, row.text) for row in texts.get(link.seq, ())),
                tuple(row.document_id for row in sources.get(link.seq, ())),
            )


def _rows(connection: Connection, table: Table, uid: str, writer: str, seqs: Sequence[int]) -> Sequence[Row[Any]]:
    where = and_(table.c.uid == uid, table.c.writer == writer, table.c.seq.in_(seqs))
    return connection.execute(select(table).where(where).order_by(table.c.seq)).all()


def _by_seq(rows: Sequence[Row[Any]]) -> dict[int, list[Row[Any]]]:
    return {seq: list(group) for seq, group in groupby(rows, key=lambda row: row.seq)}


def _record_json(stored: Stored) -> dict[str, Any]:
    link = stored.link
    facts = unpack(stored.body) if stored.body is not None else {}
    texts = {text.slot: text.text.decode("utf-8", "replace") for text in stored.texts}
    chain = {"writer": link.writer, "seq": link.seq, "prev": link.prev.hex(), "hash": link.hash.hex()}
    named = facts.pop("texts", [])
    return {**facts, "texts": {text["slot"]: texts.get(text["slot"]) for text in named}, "chain": chain}


def _named(stored: Stored) -> int:
    facts: Mapping[str, Any] = unpack(stored.body) if stored.body is not None else {}
    return sum("salt" not in text for text in facts.get("texts", ()))


def _heads(connection: Connection, uid: str) -> dict[str, Head]:
    rows = connection.execute(select(HEADS).where(HEADS.c.uid == uid)).all()
    return {row.writer: Head(row.uid, row.writer, row.seq, row.hash) for row in rows}


def _head_faults(heads: Mapping[str, Head], last: Mapping[str, Head]) -> Iterator[Fault]:
    for writer in sorted(heads.keys() | last.keys()):
        head = heads.get(writer)
        if head is None or head != last.get(writer):
            yield Fault(writer, head.seq if head else 0, "the chain does not end with its head: its end was cut off")


def _strays(connection: Connection, uid: str) -> Iterator[Fault]:
    """Rows that belong to no link."""
    for table in (FACTS, TEXTS, SOURCES):
        linked = select(CHAIN.c.seq).where(
            CHAIN.c.uid == table.c.uid, CHAIN.c.writer == table.c.writer, CHAIN.c.seq == table.c.seq
        )
        where = and_(table.c.uid == uid, ~linked.exists())
        count = connection.execute(select(func.count()).select_from(table).where(where)).scalar_one()
        if count:
            yield Fault("", 0, f"{count} rows of {table.name} belong to no record")
