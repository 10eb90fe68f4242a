"""The audit log's tables, in a database of their own or beside the control plane's.

| table         | one row                                                                             |
|---------------|-------------------------------------------------------------------------------------|
| audit_chain   | a link: the salted digest of a record's facts, chained to the link before it        |
| audit_facts   | that record's facts: compressed JSON of ids, digests and figures, and its salt      |
| audit_texts   | a text beside the chain with its own salt; deleted when it is erased or expires     |
| audit_sources | a document whose text went into a record's answer                                   |
| audit_heads   | the last link of a chain, so that a cut-off end is seen                             |

A chain belongs to one tenant and one writer (one start of one process), so writers never wait for each other.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, String, Table

METADATA = MetaData()
_UID, _WRITER, _QUERY = String(64), String(64), String(64)


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
    Index("audit_texts_document", "uid", "document_id"),
)
SOURCES = Table(
    "audit_sources",
    METADATA,
    *_key(Column("document_id", String(1024), primary_key=True)),
    Index("audit_sources_document", "uid", "document_id"),
)
HEADS = Table(
    "audit_heads",
    METADATA,
    Column("uid", _UID, primary_key=True),
    Column("writer", _WRITER, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)
TABLES = (CHAIN, FACTS, TEXTS, SOURCES, HEADS)
