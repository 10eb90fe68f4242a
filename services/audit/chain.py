"""The hash chain: what a link commits to, and how a chain is checked. Pure.

    digest(record) = blake3(salt ‖ facts)              the facts name every text's digest, blake3(salt' ‖ text)
    hash(n)        = blake3(hash(n − 1) ‖ uid ‖ writer ‖ n ‖ at_ms ‖ query_id ‖ digest(n)), each length-prefixed

Flip any byte, drop or reorder any link, and a hash no longer fits. A text is not in the chain but its salted
digest is: deleting the text and its salt leaves the chain whole, and nothing that a guess could be tested with.
Whoever can rewrite the whole database can also rewrite a whole chain: keep `heads` elsewhere and hand them to
the check as `anchors`, then that shows too.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from blake3 import blake3

from services.contracts import AuditText
from tenants.errors import IntegrityError

GENESIS = bytes(32)
SALT_BYTES = 16
_COMPRESSION = 1  # the fastest: a record is written while somebody waits


@dataclass(frozen=True, slots=True)
class Link:
    """One row of audit_chain."""

    uid: str
    writer: str
    seq: int
    at_ms: int
    query_id: str
    prev: bytes
    digest: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The last link of a chain; kept outside, it is an anchor."""

    uid: str
    writer: str
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class StoredText:
    """One row of audit_texts."""

    slot: str
    document_id: str | None
    salt: bytes
    text: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """All that is stored for one link."""

    link: Link
    salt: bytes | None
    body: bytes | None
    texts: tuple[StoredText, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was written."""

    writer: str
    seq: int
    what: str


def salted(salt: bytes, data: bytes) -> bytes:
    """32 bytes of blake3(salt ‖ data); the salt has a fixed length."""
    return blake3(salt + data).digest()


def link_after(prev: Head, at_ms: int, query_id: str, digest: bytes) -> Link:
    """The link that follows `prev` in its chain."""
    seq = prev.seq + 1
    value = _hash(prev.hash, prev.uid, prev.writer, seq, at_ms, query_id, digest)
    return Link(prev.uid, prev.writer, seq, at_ms, query_id, prev.hash, digest, value)


def pack(facts: Mapping[str, Any], texts: Iterable[StoredText], sources: Iterable[str], *, kept: bool) -> bytes:
    """The compressed facts with the digest of every text.

    Texts that are not `kept` leave their salt here, so that whoever has the text can show that it is the one.
    """
    digests = []
    for text in texts:
        digest = {"slot": text.slot, "document_id": text.document_id, "digest": salted(text.salt, text.text).hex()}
        digests.append(digest if kept else digest | {"salt": text.salt.hex()})
    body = {**facts, "texts": digests, "sources": sorted(set(sources))}
    return zlib.compress(msgspec.json.encode(body), _COMPRESSION)


def unpack(body: bytes) -> dict[str, Any]:
    """The facts of `pack`; raises `IntegrityError` when that is not what the bytes are."""
    try:
        facts: dict[str, Any] = msgspec.json.decode(zlib.decompress(body))
    except (zlib.error, msgspec.DecodeError):
        raise IntegrityError("an audit record cannot be read; check the tenant's chain") from None
    return facts


def salt_text(text: AuditText) -> StoredText:
    """UTF-8 with a fresh salt; a lone surrogate, which UTF-8 cannot say, becomes `?`."""
    return StoredText(
        text.slot, text.document_id, secrets.token_bytes(SALT_BYTES), text.text.encode("utf-8", "replace")
    )


def faults_of(stored: Stored, before: Head) -> list[Fault]:
    """What is wrong with one record, given the head that its chain had before it."""
    link = stored.link
    found: list[str] = []
    if link.seq != before.seq + 1 or link.prev != before.hash:
        found.append("does not follow the link before it: one was removed, added or moved")
    if link.hash != _hash(link.prev, link.uid, link.writer, link.seq, link.at_ms, link.query_id, link.digest):
        found.append("the link was changed")
    if stored.body is None or stored.salt is None:
        found.append("the facts are gone")
    elif salted(stored.salt, stored.body) != link.digest:
        found.append("the facts were changed")
    else:
        found.extend(_text_faults(unpack(stored.body), stored))
    return [Fault(link.writer, link.seq, what) for what in found]


def _text_faults(facts: Mapping[str, Any], stored: Stored) -> Iterable[str]:
    known = {text["slot"]: text for text in facts["texts"]}
    for text in stored.texts:
        written = known.get(text.slot)
        if written is None:
            yield "a text was added"
        elif written["document_id"] != text.document_id:
            yield f"the text {text.slot} was given to another document"
        elif salted(text.salt, text.text).hex() != written["digest"]:
            yield f"the text {text.slot} was changed"
    if sorted(stored.sources) != facts["sources"]:
        yield "the sources were changed"


def _hash(prev: bytes, uid: str, writer: str, seq: int, at_ms: int, query_id: str, digest: bytes) -> bytes:
    hasher = blake3()
    for part in (
        prev,
        uid.encode(),
        writer.encode(),
        str(seq).encode(),
        str(at_ms).encode(),
        query_id.encode(),
        digest,
    ):
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest()
