"""Reads object stores by URL: `s3://bucket/key`, `gs://bucket/key`, the key percent-encoded.

Credentials, region and endpoint come from the store's usual environment variables, which its client reads itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from jobs.indexing.reasons import ParseFailure, Reason

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object; `name` is its key below the prefix that was listed, `tag` changes with its bytes (may be "")."""

    url: str
    name: str
    size: int
    tag: str
    updated_at: datetime


def list_objects(url: str) -> Iterator[StoredObject]:
    """The object at `url`, or every object below it in the store's order. Raises `ParseFailure`."""
    store, base, key = _open(url)
    try:
        found = False
        for meta in _without_markers(meta for page in obstore.list(store, key or None) for meta in page):
            found = True
            yield _stored(meta, base, key)
        if not found and key:
            yield _stored(obstore.head(store, key), base, key.rpartition("/")[0])
    except (BaseError, FileNotFoundError) as error:
        raise ParseFailure(Reason.FETCH_FAILED, f"{url} cannot be listed: {_short(error)}") from None


def read_object(url: str) -> Iterator[bytes]:
    """The object's bytes in blocks. Raises `ParseFailure`: `not_found`, `fetch_failed`."""
    store, _, key = _open(url)
    try:
        yield from (bytes(block) for block in obstore.get(store, key).stream(min_chunk_size=BLOCK_BYTES))
    except FileNotFoundError:
        raise ParseFailure(Reason.NOT_FOUND, "the object is gone") from None
    except BaseError as error:
        raise ParseFailure(Reason.FETCH_FAILED, f"the object cannot be read: {_short(error)}") from None


def _open(url: str) -> tuple[ObjectStore, str, str]:
    """(store of the whole bucket, its URL, key)."""
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    try:
        return from_url(base), base, unquote(parts.path).strip("/")
    except (BaseError, ValueError) as error:
        raise ParseFailure(Reason.FETCH_FAILED, f"{base} cannot be opened: {_short(error)}") from None


def _without_markers(listed: Iterable[obstore.ObjectMeta]) -> Iterator[obstore.ObjectMeta]:
    """Leave out the empty objects that stand for folders: the client drops the slash at their end.

    In the store's order such an object comes right before the first one below it.
    """
    before: obstore.ObjectMeta | None = None
    for meta in listed:
        if before is not None and (before["size"] or not meta["path"].startswith(f"{before['path']}/")):
            yield before
        before = meta
    if before is not None:
        yield before


def _stored(meta: obstore.ObjectMeta, base: str, prefix: str) -> StoredObject:
    path = str(meta["path"])
    name = path.removeprefix(prefix).lstrip("/") if prefix else path
    tag = str(meta["e_tag"] or "").strip('"')
    return StoredObject(f"{base}/{quote(path)}", name, int(meta["size"]), tag, meta["last_modified"])


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
