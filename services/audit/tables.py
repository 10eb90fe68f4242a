"""The audit log's tables, in a database of their own or beside the control plane's.

| table         | one row                                                                             |
|---------------|-------------------------------------------------------------------------------------|
| audit_chain   | a link: the salted digest of a record's facts, chained to the link before it        |
| audit_facts   | that record's facts: compressed JSON of ids, digests and figures, and its salt      |
| audit_texts   | a text beside the chain with its own salt; deleted when it is erased or expires     |
| audit_sources | a document whose text went into a record's answer                                   |
| audit_outcomes | what experiments read of a question: its unit, experiment, arm, and a few figures   |
| audit_heads   | the last link of a chain, so that a cut-off end is seen                             |
| audit_deleted | the digest of a deleted tenant's uid: nothing of it is stored any more              |

A chain belongs to one tenant and one writer (one start of one process), so writers never wait for each other.
Document ids are indexed by their beginning: PostgreSQL refuses an index entry of more than a third of a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blake3 import blake3
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    and_,
    func,
    select,
)
from sqlalchemy import literal_column as literal

from tenants.ids import MAX_DOCUMENT_ID_CHARS, text_digest

METADATA = MetaData()
_UID, _WRITER, _QUERY = String(64), String(64), String(64)
_DELETION_LOCK = 0x61_75_64_69_74  # "audit": PostgreSQL's advisory locks are named by a number
_INDEXED_CHARS = 256  # 1,024 bytes of UTF-8 at most


def _key(*more: Column[Any]) -> list[Column[Any]]:
    columns: list[Column[Any]] = [
        Column("uid", _UID, primary_key=True),
        Column("writer", _WRITER, primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
    ]
    return [*columns, *more]


CHAIN = Table(
    "audit_chain",
    METADATA,
    *_key(),
    Column("at_ms", BigInteger, nullable=False),
    Column("query_id", _QUERY, nullable=False),
    Column("prev", LargeBinary(32), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Index("audit_chain_query", "uid", "query_id"),
)
FACTS = Table(
    "audit_facts",
    METADATA,
    *_key(),
    Column("salt", LargeBinary(16), nullable=False),
    Column("body", LargeBinary, nullable=False),
)
TEXTS = Table(
    "audit_texts",
    METADATA,
    *_key(Column("slot", String(64), primary_key=True)),
    Column("document_id", String(1024)),
    Column("salt", LargeBinary(16), nullable=False),
    Column("text", LargeBinary, nullable=False),  # UTF-8
)
SOURCES = Table(
    "audit_sources",
    METADATA,
    Column("uid", _UID, nullable=False),
    Column("writer", _WRITER, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("document_id", String(1024), nullable=False),
    Index("audit_sources_record", "uid", "writer", "seq"),
)
OUTCOMES = Table(
    "audit_outcomes",
    METADATA,
    Column("uid", _UID, primary_key=True),
    Column("query_id", _QUERY, primary_key=True),
    Column("arm", String(64), primary_key=True),  # "" = of no experiment; a shadowed question has a row for each arm
    Column("experiment", String(64), nullable=False),  # "" = none
    Column("unit", String(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # JSON
    Index("audit_outcomes_experiment", "experiment", "uid", "at_ms"),
    Index("audit_outcomes_unit", "uid", "unit", "at_ms"),
)
HEADS = Table(
    "audit_heads",
    METADATA,
    Column("uid", _UID, primary_key=True),
    Column("writer", _WRITER, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)
DELETED = Table("audit_deleted", METADATA, Column("tenant", LargeBinary(32), primary_key=True))
TABLES = (CHAIN, FACTS, TEXTS, SOURCES, OUTCOMES, HEADS)  # what holds rows of a tenant


def _beginning(table: Table) -> ColumnElement[str]:
    # Literals, not parameters: an index on an expression serves only the very same expression.
    return func.substr(table.c.document_id, literal("1"), literal(str(_INDEXED_CHARS)))


Index("audit_texts_document", TEXTS.c.uid, _beginning(TEXTS))
Index("audit_sources_document", SOURCES.c.uid, _beginning(SOURCES))


def of_documents(table: Table, uid: str, document_ids: Sequence[str]) -> ColumnElement[bool]:
    """The tenant's rows of TEXTS or SOURCES that belong to its own documents."""
    beginnings = sorted({one[:_INDEXED_CHARS] for one in document_ids})
    return and_(table.c.uid == uid, _beginning(table).in_(beginnings), table.c.document_id.in_(document_ids))


def shared_document(owner: str, document_id: str) -> str:
    """How a subscriber's records name a document of the tenant `owner` (its uid): no document of their own is meant."""
    name = f"{owner}/{document_id}"
    return name if len(name) <= MAX_DOCUMENT_ID_CHARS else f"{owner}/{text_digest(document_id)}"


def deleted_tenant(uid: str) -> bytes:
    """What audit_deleted keeps of a tenant: 32 bytes of blake3 of its random uid, which no longer name it."""
    return blake3(uid.encode()).digest()


def hold_off_deletions(connection: Connection) -> None:
    """Wait until no tenant is being deleted; until this transaction ends none is. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock_shared(_DELETION_LOCK)))


def hold_off_appends(connection: Connection) -> None:
    """Wait until no record is being appended; until this transaction ends none is."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_DELETION_LOCK)))
