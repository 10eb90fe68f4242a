"""A shared collection as a corpus of its own, in memory: its rows, and a full-text index over nothing else.

The owner's index knows all of the owner's documents, and BM25 weighs words by them: scores of a shared collection
would tell its subscribers which words the private ones use. So its rows are read once per published version, and
indexed here, away from their neighbours: nothing that is not in the collection can change a score by a bit.
"""

from __future__ import annotations

from typing import Any

import lancedb
import pyarrow as pa
from lancedb.index import FTS

from services.retrieval.filters import prefilter
from services.retrieval.rows import columns_of
from tenants.corpus.indices import text_options
from tenants.errors import Unavailable
from tenants.scope import Shared

TABLE = "shared"


async def isolated(source: lancedb.AsyncTable, share: Shared, limit_rows: int) -> lancedb.AsyncTable:
    """The rows of `share` out of the owner's open version, indexed alone; without rows there is no index.

    Their `collection` is the name under which the subscriber knows it. Raises `Unavailable` for more than
    `limit_rows`, and what LanceDB raises.
    """
    where = prefilter(None, [share.collection])
    rows = await source.count_rows(where)
    if rows > limit_rows:
        raise Unavailable(f"{share.name} has {rows} chunks, this process may hold {limit_rows} for a shared collection")
    names = [*columns_of((await source.schema()).names), "lexical", "facets"]
    found = await source.query().where(where).select(names).to_arrow()
    return await _indexed(_renamed(found, share.name), share)


async def _indexed(rows: pa.Table, share: Shared) -> lancedb.AsyncTable:
    connection = await lancedb.connect_async("memory://")
    table = await connection.create_table(TABLE, rows)
    if rows.num_rows:
        options: dict[str, Any] = text_options(share.languages)
        await table.create_index("lexical", config=FTS(**options))
    return table


def _renamed(rows: pa.Table, name: str) -> pa.Table:
    place = rows.schema.get_field_index("collection")
    return rows.set_column(place, rows.schema.field(place), pa.array([name] * rows.num_rows, pa.string()))
