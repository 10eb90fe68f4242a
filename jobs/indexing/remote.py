"""Lists what object stores and web addresses hold. One file at a time lies on the disk while it is looked into."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.indexing.buckets import StoredObject, list_objects
from jobs.indexing.fetch import STORES, Fetcher, split_url
from jobs.indexing.items import Listed, SourceError, SourceItem, checked_id
from jobs.indexing.local import ROW_SUFFIXES, list_rows_file, list_stored
from jobs.indexing.reasons import ParseFailure
from jobs.indexing.sandbox import Sandbox
from services.settings import Limits
from tenants.ids import text_digest

ARCHIVE_SUFFIXES = (".zip",)


def list_remote(spec: str, limits: Limits, fetcher: Fetcher) -> Iterator[Listed]:
    """Every document at or below the URL `spec`; what fails is a `SourceError`.

    A document of an object store is named by its key below the prefix, a web page by its whole URL.
    """
    with Sandbox(limits) as sandbox:
        try:
            fetcher.check(spec)
            found = _objects(spec) if split_url(spec).scheme in STORES else iter((_page(spec),))
            for item in found:
                yield from _contained(_list_item(item, limits, fetcher, sandbox), item)
        except ParseFailure as failure:
            yield SourceError(spec, failure.reason, failure.message, spec)


def _contained(listed: Iterator[Listed], item: SourceItem) -> Iterator[Listed]:
    try:
        yield from listed
    except ParseFailure as failure:
        yield SourceError(item.document_id, failure.reason, failure.message, item.source)


def _objects(spec: str) -> Iterator[SourceItem]:
    return (_item(found, spec) for found in list_objects(spec) if found.name and not found.name.endswith("/"))


def _item(found: StoredObject, spec: str) -> SourceItem:
    digest = text_digest(f"{found.tag} {found.size}") if found.tag else None
    return SourceItem(found.url, found.name, spec, found.size, digest, "file", None, found.updated_at)


def _page(url: str) -> SourceItem:
    return SourceItem(url, url, url, 0, None, "file")


def _list_item(item: SourceItem, limits: Limits, fetcher: Fetcher, sandbox: Sandbox) -> Iterator[Listed]:
    name = item.document_id.lower().partition("?")[0]
    if item.digest and not name.endswith((*ROW_SUFFIXES, *ARCHIVE_SUFFIXES)):
        checked_id(item.document_id)
        yield item
        return
    with fetcher.local_copy(item.uri) as path:
        if name.endswith(ROW_SUFFIXES):
            yield from list_rows_file(path, name.endswith(".gz"), item, limits)
            return
        stored = SourceItem(
            item.uri, item.document_id, item.source, path.stat().st_size, item.digest, "file", None, item.updated_at
        )
        yield from list_stored(path, stored, limits, sandbox)
