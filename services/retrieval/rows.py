"""Stored rows → candidates: passages, exact cosines, ranks. Pure; knows Arrow and numpy, no database.

`RowStore` is one published version in memory: row ids ascending, vectors as one matrix, everything else as Arrow
columns; passages are made when first asked for and kept, since a published version never changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from services.contracts import Candidates, Float32, Int32, Passage, Span

ROW_ID = "_rowid"
COLUMNS = (
    "chunk_id",
    "document_id",
    "title",
    "heading",
    "text",
    "collection",
    "ordinal",
    "char_start",
    "char_end",
    "page",
    "t_start_s",
    "url",
    "updated_at",
    "metadata",
    "tokens",
    "vector",
    "token_ids",
)
LATER = frozenset({"token_ids"})  # tables of older versions lack these

Int64 = npt.NDArray[np.int64]


class Leg:
    """One list: `rows` (n,) int64 row ids, best first; `scores` (n,) float32 beside them."""

    __slots__ = ("rows", "scores")

    def __init__(self, rows: Int64, scores: Float32) -> None:
        self.rows = rows
        self.scores = scores


class RowStore:
    """Rows in memory, addressed by row id. `table` has `_rowid` and COLUMNS, in any order.

    `owner` is `Passage.owner` of every row.
    """

    def __init__(self, table: pa.Table, owner: str = "") -> None:
        ids = table[ROW_ID].to_numpy().astype(np.int64)
        order = np.argsort(ids, kind="stable")
        self.ids: Int64 = ids[order]
        ordered = table.take(pa.array(order)).combine_chunks()
        self.vectors: Float32 = matrix(ordered["vector"])
        self._table = ordered.drop_columns([ROW_ID, "vector"])
        self._owner = owner
        self._passages: list[Passage | None] = [None] * len(ids)
        # Bytes held, with what the passages will add once all were asked for.
        self.nbytes = int(self.vectors.nbytes + self.ids.nbytes + 3 * self._table.nbytes)

    def positions(self, rows: Int64) -> Int64:
        """(n,) int64 places of row ids in this store; raises KeyError for one that is not held."""
        found = np.searchsorted(self.ids, rows)
        if len(rows) and (found.max(initial=0) >= len(self.ids) or not np.array_equal(self.ids[found], rows)):
            raise KeyError("a row id of the index is not among the version's rows")
        return found

    def passages(self, positions: Int64) -> tuple[Passage, ...]:
        """Passages at the given places, in that order."""
        missing = [int(place) for place in positions if self._passages[place] is None]
        if missing:
            made = passages_of(self._table.take(pa.array(missing)), self._owner)
            for place, passage in zip(missing, made, strict=True):
                self._passages[place] = passage
        return tuple(kept for place in positions if (kept := self._passages[place]) is not None)

    def nearest(self, query: Float32, limit: int, allowed: Int64 | None) -> Leg:
        """The exact dense list: the `limit` rows (of `allowed` row ids, None = all) with the highest cosine."""
        places = None if allowed is None else self.positions(np.sort(allowed))
        scores = self.vectors @ query if places is None else self.vectors[places] @ query
        best = top(scores, limit)
        return Leg(self.ids[best if places is None else places[best]], scores[best])

    def best_of(self, rows: Int64, query: Float32, limit: int) -> Leg:
        """The `limit` of these row ids with the highest exact cosine, best first."""
        scores = self.vectors[self.positions(rows)] @ query
        best = top(scores, limit)
        return Leg(rows[best], scores[best])


def top(scores: Float32, limit: int) -> Int64:
    """(≤ limit,) int64 places of the highest scores, best first, ties by place."""
    if len(scores) > limit:
        kept = np.argpartition(-scores, limit - 1)[:limit]
        kept.sort()
    else:
        kept = np.arange(len(scores))
    return kept[np.argsort(-scores[kept], kind="stable")].astype(np.int64)


def matrix(column: pa.ChunkedArray) -> Float32:
    """(n, d) float32, contiguous, from a fixed-size list column."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = array.type.list_size
    return np.ascontiguousarray(array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width), dtype=np.float32)


def columns_of(names: Sequence[str]) -> list[str]:
    """COLUMNS, without those that a table with the columns `names` is too old for."""
    return [name for name in COLUMNS if name not in LATER or name in names]


def passages_of(table: pa.Table, owner: str = "") -> list[Passage]:
    """One passage per row of COLUMNS without the vector; `owner` is that of a shared collection."""
    columns = {name: table[name].to_pylist() for name in columns_of(table.schema.names) if name != "vector"}
    return [_passage({name: values[row] for name, values in columns.items()}, owner) for row in range(table.num_rows)]


def union(dense: Leg, sparse: Leg) -> Int64:
    """(n,) int64 row ids in either list, ascending."""
    return np.union1d(dense.rows, sparse.rows)


def candidates_of(
    rows: Int64,
    passages: Sequence[Passage],
    vectors: Float32,
    query: Float32,
    legs: Mapping[str, Leg],
    depth: int,
    timings_ms: Mapping[str, float],
) -> Candidates:
    """Put both lists onto `rows` (ascending row ids), in the order of chunk ids.

    Every row's cosine is computed here, exactly and row by row, so that a row's score depends on nothing but the
    row and the question. The dense list is put in the order of these cosines and cut at `depth`; rows that fall
    out of it and stand in no other list are dropped.
    """
    dense = np.einsum("nd,d->n", vectors, query, dtype=np.float32) if len(rows) else np.zeros(0, np.float32)
    dense_rank = _dense_ranks(rows, legs.get("dense"), dense, depth)
    sparse, sparse_rank = _sparse_column(rows, legs.get("sparse"), depth)
    kept = np.flatnonzero((dense_rank > 0) | (sparse_rank > 0))
    kept = np.array(sorted(kept.tolist(), key=lambda row: passages[row].chunk_id), np.int64)
    return Candidates(
        passages=tuple(passages[row] for row in kept.tolist()),
        dense=dense[kept],
        sparse=sparse[kept],
        dense_rank=dense_rank[kept],
        sparse_rank=sparse_rank[kept],
        vectors=vectors[kept],
        query_vector=query,
        legs=tuple(name for name in ("dense", "sparse") if name in legs),
        timings_ms=timings_ms,
    )


def no_candidates(query: Float32, legs: tuple[str, ...], timings_ms: Mapping[str, float]) -> Candidates:
    """An empty index's answer: nothing found, and no leg missing."""
    none, rank = np.zeros(0, np.float32), np.zeros(0, np.int32)
    vectors = np.zeros((0, len(query)), np.float32)
    return Candidates((), none, none, rank, rank, vectors, query, legs, timings_ms)


def _dense_ranks(rows: Int64, leg: Leg | None, dense: Float32, depth: int) -> Int32:
    ranks = np.zeros(len(rows), np.int32)
    if leg is not None:
        places = np.searchsorted(rows, leg.rows)
        places = places[np.argsort(-dense[places], kind="stable")][:depth]
        ranks[places] = np.arange(1, len(places) + 1, dtype=np.int32)
    return ranks


def _sparse_column(rows: Int64, leg: Leg | None, depth: int) -> tuple[Float32, Int32]:
    scores, ranks = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.int32)
    if leg is not None:
        places = np.searchsorted(rows, leg.rows[:depth])
        scores[places] = leg.scores[:depth]
        ranks[places] = np.arange(1, len(places) + 1, dtype=np.int32)
    return scores, ranks


def _passage(row: Mapping[str, Any], owner: str) -> Passage:
    moment: datetime | None = row["updated_at"]
    return Passage(
        chunk_id=row["chunk_id"],
        document_id=row["document_id"],
        title=row["title"],
        heading=row["heading"],
        text=row["text"],
        collection=row["collection"],
        ordinal=row["ordinal"],
        span=Span(row["char_start"], row["char_end"], row["page"], row["t_start_s"]),
        url=row["url"],
        updated_at=moment.isoformat().replace("+00:00", "Z") if moment else None,
        metadata=json.loads(row["metadata"] or "{}"),
        tokens=row["tokens"],
        token_ids=row.get("token_ids") or b"",
        owner=owner,
    )
