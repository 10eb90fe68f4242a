"""Where documents come from: files, folders, globs and URLs as one stream of `SourceItem`.

The driver of a job reads this stream; a bad file or line is an item of its own (`SourceError`), never an
exception, and nothing larger than one line or one block is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.indexing.items import Listed as Listed
from jobs.indexing.items import SourceError as SourceError
from jobs.indexing.items import SourceItem as SourceItem
from jobs.indexing.items import items_table as items_table
from jobs.indexing.local import list_local
from services.settings import Limits
from tenants.errors import InvalidInput


def list_sources(
    specs: Sequence[str], limits: Limits, *, allow: Sequence[str] = (), untrusted: bool = False
) -> Iterator[Listed]:
    """List every document below `specs`, in their order.

    `untrusted` is for jobs that a tenant submitted over HTTP: only URLs below one of `allow` are read, no local
    path. Raises `InvalidInput` for a spec that cannot be a source at all.
    """
    for spec in specs:
        if "://" in spec:
            raise InvalidInput.field("/sources", f"{spec!r} is no source that can be read here")
        if untrusted:
            raise InvalidInput.field("/sources", "a path of the platform's machine is no source; give a URL")
        yield from list_local(spec, limits)
