"""Where documents come from: files, folders, globs and URLs as one stream of `SourceItem`.

The driver of a job reads this stream; a bad file or line is an item of its own (`SourceError`), never an
exception, and nothing larger than one line or one block is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.indexing.fetch import Fetcher
from jobs.indexing.items import Listed as Listed
from jobs.indexing.items import SourceError as SourceError
from jobs.indexing.items import SourceItem as SourceItem
from jobs.indexing.items import items_table as items_table
from jobs.indexing.local import list_local
from jobs.indexing.reasons import ParseFailure
from jobs.indexing.remote import list_remote
from services.settings import Limits
from tenants.errors import InvalidInput


def list_sources(
    specs: Sequence[str], limits: Limits, *, allow: Sequence[str] = (), untrusted: bool = False
) -> Iterator[Listed]:
    """List every document below `specs`, in their order.

    `untrusted` is for jobs that a tenant submitted over HTTP: only URLs below one of `allow` are read, no local
    path. Raises `InvalidInput` for a spec that cannot be a source at all; `check_sources` does so beforehand.
    """
    check_sources(specs, allow=allow, untrusted=untrusted)
    fetcher = Fetcher(limits, allow if untrusted else None)
    for spec in specs:
        yield from list_remote(spec, limits, fetcher) if "://" in spec else list_local(spec, limits)


def check_sources(specs: Sequence[str], *, allow: Sequence[str] = (), untrusted: bool = False) -> None:
    """Refuse what can be refused without reading: raises `InvalidInput` naming the spec. Looks up host names."""
    fetcher = Fetcher(Limits(), allow if untrusted else None)
    for index, spec in enumerate(specs):
        pointer = f"/sources/{index}"
        if untrusted and "://" not in spec:
            raise InvalidInput.field(pointer, "a path of the platform's machine is no source; give a URL")
        if "://" in spec:
            try:
                fetcher.check(spec)
            except ParseFailure as failure:
                raise InvalidInput.field(pointer, failure.message) from None
