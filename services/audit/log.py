"""The audit log: append-only, hash-chained (chain.py), durable before the reply, readable by its tenant only.

Appends of all tenants and requests of a process share transactions (group commit). A record that cannot be made
durable fails its question with `Unavailable`: an answer that nobody can account for must not leave. Text beside
the chain is erased with its document and expires; the chain stays whole. Reading and tending are in reading.py.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError as ConstraintViolated

from services.audit.chain import GENESIS, SALT_BYTES, Head, Link, StoredText, link_after, pack, salt_text, salted
from services.audit.group_commit import GroupCommit
from services.audit.tables import (
    CHAIN,
    DELETED,
    FACTS,
    HEADS,
    METADATA,
    OUTCOMES,
    SOURCES,
    TEXTS,
    deleted_tenant,
    hold_off_deletions,
)
from services.contracts import AuditRecord, Outcome
from tenants.database import Database
from tenants.errors import FathomError, NotFound, Unavailable
from tenants.scope import TenantScope

_MOVE_HEAD = (
    update(HEADS)
    .where(HEADS.c.uid == bindparam("of"), HEADS.c.writer == bindparam("by"))
    .values(seq=bindparam("to"), hash=bindparam("as"))
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record, packed by its request's own thread so that the writer thread only chains and stores."""

    uid: str
    at_ms: int
    query_id: str
    salt: bytes
    body: bytes
    digest: bytes
    texts: tuple[StoredText, ...]
    sources: tuple[str, ...]
    outcome: Mapping[str, Any] | None


class SqlAuditLog:
    """contracts.AuditLog over SQLite or PostgreSQL. Threads and tasks share it; one per process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group = GroupCommit(self._write, name="audit-log")
        self._writer, self._heads = _new_writer(), dict[str, Head]()

    async def append(self, scope: TenantScope, record: AuditRecord) -> None:
        """Returns once the record is durable; raises `Unavailable` when it cannot be made so.

        Raises `NotFound` for a tenant that was deleted while the question was on its way.
        """
        kept = scope.config.audit.store_text
        await asyncio.wrap_future(self._group.submit(_packed(scope.uid, record, kept=kept)))

    async def check(self) -> None:
        """Returns once the writer has worked off what waited before; raises `Unavailable` when it cannot write."""
        await asyncio.wrap_future(self._group.ping())

    def close(self) -> None:
        """Write what waits and let the database go."""
        self._group.close()
        self._database.close()

    def _write(self, entries: Sequence[_Entry]) -> None:
        writer, known = self._writer, self._heads
        heads, links = dict(known), list[Link]()
        for entry in entries:
            before = heads.get(entry.uid, Head(entry.uid, writer, 0, GENESIS))
            link = link_after(before, entry.at_ms, entry.query_id, entry.digest)
            heads[entry.uid] = Head(entry.uid, writer, link.seq, link.hash)
            links.append(link)
        # Whether a transaction that failed reached the disk is unknown: a fresh chain can't contradict it either way.
        self._writer, self._heads = _new_writer(), {}
        try:
            with self._database.writing() as connection:
                if entries:
                    _refuse_deleted(connection, entries)
                    _store(connection, entries, links)
                    self._keep_outcomes(connection, entries)
                    _move_heads(connection, known, heads)
        except NotFound:
            raise
        except (FathomError, ConstraintViolated) as error:
            raise Unavailable(
                "the audit log cannot be written, so the answer was withheld; check FATHOM_AUDIT_DATABASE_URL and "
                "the free space of its disk",
                retry_after_s=1,
            ) from error
        self._writer, self._heads = writer, heads

    def _keep_outcomes(self, connection: Connection, entries: Sequence[_Entry]) -> None:
        """One row a question, whatever is handed over twice; a stream's last record tells more than its first."""
        rows = {(row["uid"], row["query_id"], row["arm"]): row for one in entries if (row := one.outcome)}
        if rows:
            put = self._database.insert(OUTCOMES)
            keys = [OUTCOMES.c.uid, OUTCOMES.c.query_id, OUTCOMES.c.arm]
            connection.execute(put.on_conflict_do_update(keys, set_={"body": put.excluded.body}), list(rows.values()))


def open_audit_log(url: str) -> SqlAuditLog:
    """Open the log at a database URL, making its tables first; raises `Unavailable`, `InvalidInput`."""
    database = Database(url)
    database.create(METADATA)
    return SqlAuditLog(database)


def _new_writer() -> str:
    return "w_" + secrets.token_hex(8)


def _packed(uid: str, record: AuditRecord, *, kept: bool) -> _Entry:
    texts = tuple(salt_text(text) for text in record.texts)
    sources = tuple(sorted(set(record.sources)))
    body, salt = pack(record.facts, texts, sources, kept=kept), secrets.token_bytes(SALT_BYTES)
    stored = texts if kept else ()
    outcome = None if record.outcome is None else _outcome(uid, record, record.outcome)
    return _Entry(uid, record.at_ms, record.query_id, salt, body, salted(salt, body), stored, sources, outcome)


def _outcome(uid: str, record: AuditRecord, told: Outcome) -> dict[str, Any]:
    named = {"experiment": told.experiment or "", "arm": told.arm or "", "unit": told.unit}
    body = msgspec.json.encode(told.values)
    return {"uid": uid, "query_id": record.query_id, "at_ms": record.at_ms, **named, "body": body}


def _refuse_deleted(connection: Connection, entries: Sequence[_Entry]) -> None:
    hold_off_deletions(connection)
    tenants = {deleted_tenant(entry.uid) for entry in entries}
    if connection.execute(select(DELETED.c.tenant).where(DELETED.c.tenant.in_(tenants)).limit(1)).first():
        raise NotFound("the tenant was deleted while it was asked")


def _store(connection: Connection, entries: Sequence[_Entry], links: Sequence[Link]) -> None:
    keys = [{"uid": link.uid, "writer": link.writer, "seq": link.seq} for link in links]
    pairs = list(zip(keys, entries, strict=True))
    connection.execute(insert(CHAIN), [_row(link) for link in links])
    connection.execute(insert(FACTS), [{**key, "salt": entry.salt, "body": entry.body} for key, entry in pairs])
    texts = [{**key, **_row(text)} for key, entry in pairs for text in entry.texts]
    sources = [{**key, "document_id": document} for key, entry in pairs for document in entry.sources]
    if texts:
        connection.execute(insert(TEXTS), texts)
    if sources:
        connection.execute(insert(SOURCES), sources)


def _row(value: Link | StoredText | Head) -> dict[str, Any]:
    # Their fields are the tables' columns; asdict would copy every value deeply, and this runs per question.
    return {name: getattr(value, name) for name in value.__slots__}


def _move_heads(connection: Connection, before: Mapping[str, Head], after: Mapping[str, Head]) -> None:
    new = [_row(head) for uid, head in after.items() if uid not in before]
    moved = [
        {"of": uid, "by": head.writer, "to": head.seq, "as": head.hash}
        for uid, head in after.items()
        if uid in before and head.seq != before[uid].seq
    ]
    if new:
        connection.execute(insert(HEADS), new)
    if moved:
        connection.execute(_MOVE_HEAD, moved)
