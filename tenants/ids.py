"""The only place where a raw string becomes an id. Does no I/O.

A `TenantName` is what people type; a `TenantUid` is the random name of the tenant's folder, so that no
user input ever becomes a path and a re-created tenant never meets its predecessor's data.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from typing import NewType

from blake3 import blake3

from tenants.errors import InvalidInput

TenantName = NewType("TenantName", str)
TenantUid = NewType("TenantUid", str)
DocumentId = NewType("DocumentId", str)
ChunkId = NewType("ChunkId", str)
JobId = NewType("JobId", str)
QueryId = NewType("QueryId", str)

MAX_DOCUMENT_ID_CHARS = 1_024
DIGEST_CHARS = 32  # 128 bits of blake3, hex

_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_QUERY = re.compile(r"q_[0-9a-f]{32}\Z")
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}\Z")


def tenant_name(raw: str) -> TenantName:
    """1–63 of `a-z 0-9 -`, as in a DNS label, so that it fits a URL, a label and a metric."""
    if not _TENANT.match(raw):
        raise InvalidInput.field("/tenant", "a tenant's name is 1-63 characters of a-z, 0-9 and '-', not at its ends")
    return TenantName(raw)


def new_tenant_uid() -> TenantUid:
    """`t_` and 80 random bits."""
    return TenantUid("t_" + secrets.token_hex(10))


def collection_name(raw: str) -> str:
    """1–64 of letters, digits and `_ . -`."""
    if not _COLLECTION.match(raw):
        raise InvalidInput.field("/collection", "a collection's name is 1-64 letters, digits, '_', '.' or '-'")
    return raw


def document_id(raw: str) -> DocumentId:
    """Any text without control characters, NFC, 1–1,024 characters: ids may be paths or URLs."""
    text = unicodedata.normalize("NFC", raw)
    if not text or len(text) > MAX_DOCUMENT_ID_CHARS:
        raise InvalidInput.field("/id", f"a document id has 1-{MAX_DOCUMENT_ID_CHARS} characters, this has {len(text)}")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise InvalidInput.field("/id", "a document id holds no control characters")
    return DocumentId(text)


def new_job_id() -> JobId:
    """`job_` and 80 random bits; also Ray's submission id, and so the job's idempotency key."""
    return JobId("job_" + secrets.token_hex(10))


def job_id(raw: str) -> JobId:
    """1–80 letters, digits, `_`, `-`."""
    if not _JOB.match(raw):
        raise InvalidInput.field("/job_id", "a job id is 1-80 letters, digits, '_' or '-'")
    return JobId(raw)


def new_query_id(at_ms: int) -> QueryId:
    """`q_` and 128 bits: 48 of Unix milliseconds, so that ids sort by time, then 80 random ones."""
    return QueryId(f"q_{at_ms & (1 << 48) - 1:012x}{secrets.token_hex(10)}")


def query_id(raw: str) -> QueryId:
    """`q_` and 32 hexadecimal digits."""
    if not _QUERY.match(raw):
        raise InvalidInput.field("/query_id", "a query id is q_ and 32 hexadecimal digits, as an answer carries it")
    return QueryId(raw)


def text_digest(text: str) -> str:
    """128 bits of blake3 over the UTF-8 text, hex. Lone surrogates are replaced, never an error."""
    return blake3(text.encode("utf-8", "replace")).hexdigest()[:DIGEST_CHARS]


def bytes_digest(data: bytes) -> str:
    """128 bits of blake3 over the bytes, hex."""
    return blake3(data).hexdigest()[:DIGEST_CHARS]


def chunk_id(uid: TenantUid, document: str, digest: str, occurrence: int, fingerprint: str) -> ChunkId:
    """blake3(tenant, document, text digest, occurrence, fingerprint): a retry writes the same id.

    `occurrence` (from 0) tells equal texts of one document apart; the parts are length-prefixed, so no two
    different tuples share an encoding.
    """
    hasher = blake3()
    for part in (uid, document, digest, str(occurrence), fingerprint):
        data = part.encode("utf-8", "replace")
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return ChunkId("c_" + hasher.hexdigest()[:DIGEST_CHARS])
