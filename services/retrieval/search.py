"""Both legs at the pinned version: question → candidates. The reader of LanceDB on the ask line.

A published version never changes, so it is opened once and kept (least recently used first out), and its rows are
kept in memory while the budget lasts: reading 200 rows from the index costs more than both searches. Full-text
search starts before the question is embedded. A leg that fails or is late is missing from `Candidates.legs`;
only when nothing answered does the caller get an error. Shared collections are searched beside the tenant's own
corpus, each as a corpus of its own (`shared.py`), and join its candidates; one that cannot be read is named in
`Candidates.unsearched`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
from lancedb.query import MatchQuery

from services import deadline
from services.contracts import Candidates, Float32, Question
from services.embedding.queries import QueryEncoder
from services.retrieval.filters import prefilter
from services.retrieval.lexical import readable
from services.retrieval.merging import merged
from services.retrieval.rows import (
    ROW_ID,
    Int64,
    Leg,
    RowStore,
    candidates_of,
    columns_of,
    no_candidates,
    passages_of,
    union,
)
from services.retrieval.rows import matrix as vector_matrix
from services.retrieval.shared import isolated
from services.settings import Retrieval
from tenants.errors import FathomError, Unavailable
from tenants.scope import Release, Shared, TenantScope

EXACT_ROWS = 10_000  # up to here one pass over all vectors is faster than the index, and exact
EAGER_ROWS = 2_000  # up to here rows are loaded with the first question, larger versions after a few
WARM_USES = 3
PROBES = 24  # partitions read, and rows compared exactly per row wanted, where the release does not say
REFINE = 2
BYTES_PER_ROW = 4_096  # a generous guess of a chunk's columns, before they are loaded

_LANCE_ERRORS = (RuntimeError, ValueError, OSError)

Key = tuple[str, str, int, str]  # database, table, version, and the shared collection or "" for the whole
Part = tuple[Candidates, int]  # a corpus's candidates, and how many chunks it has
Query = asyncio.Task[tuple[Float32, float]]  # the question's vector and the milliseconds that it took


@dataclass(slots=True)
class Corpus:
    """One open published version, or the part of one that is shared; `columns` are those of it that are read."""

    table: lancedb.AsyncTable
    release: Release
    columns: list[str]
    owner: str = ""
    rows: RowStore | None = None
    uses: int = 0
    loading: asyncio.Task[None] | None = field(default=None)


class LocalRetriever:
    """contracts.Retriever in this process. One per process, used from one event loop; `close` when done."""

    def __init__(self, encoder: QueryEncoder, settings: Retrieval | None = None) -> None:
        self._encoder = encoder
        self._settings = settings or Retrieval()
        self._session = lancedb.Session(
            index_cache_size_bytes=self._settings.index_cache_bytes,
            metadata_cache_size_bytes=self._settings.metadata_cache_bytes,
        )
        self._open: OrderedDict[Key, asyncio.Task[Corpus]] = OrderedDict()

    async def embed(self, model: str, texts: Sequence[str]) -> Float32:
        """See `contracts.Retriever`."""
        return await self._encoder.encode(model, texts)

    async def retrieve(self, scope: TenantScope, question: Question) -> Candidates:
        """See `contracts.Retriever`."""
        deadline.check()
        own = scope.release if scope.release and scope.release.chunks else None
        shares = _asked(scope, question)
        first = own or next((share.release for share in shares), None)
        if first is None:
            return replace(await self._nothing(scope), unsearched=_unsearched(scope, question, ()))
        query = asyncio.create_task(self._query(first, question))
        try:
            beside = [self._share(share, first, question, query) for share in shares]
            if own is None:
                return await self._joined(scope, question, shares, await asyncio.gather(*beside))
            part, *found = await asyncio.gather(self._part(self._corpus(scope, own), question, query), *beside)
            return await self._joined(scope, question, shares, found, part)
        finally:
            query.cancel()

    async def close(self) -> None:
        """Stop loading, forget every version, let the encoder's threads go."""
        for task in self._open.values():
            corpus = _corpus_of(task)
            if corpus and corpus.loading:
                corpus.loading.cancel()
        self._open.clear()
        self._encoder.close()

    # ---- one corpus, and the shared ones beside it ---------------------------------------------------------

    async def _part(self, opened: Awaitable[Corpus], question: Question, query: Query) -> Part:
        """One corpus's candidates and its number of chunks: of a shared one, those that are shared."""
        began = time.perf_counter()
        corpus = await opened
        where = prefilter(question.filter, question.collections)
        legs, vector, embed_ms = await self._legs(corpus, question, where, query)
        found = await self._hydrated(corpus, legs, vector)
        search_ms = (time.perf_counter() - began) * 1000 - embed_ms
        spent = {"embed": embed_ms, "search": search_ms}
        return candidates_of(*found, vector, legs, self._settings.candidates, spent), corpus.release.chunks

    async def _share(self, share: Shared, first: Release, question: Question, query: Query) -> Part | None:
        """A shared collection's candidates; None when they cannot stand beside the others, or not in time."""
        if share.release.table != first.table:  # another embedder: cosines would mean another thing
            return None
        try:
            async with asyncio.timeout(min(self._settings.leg_timeout_s, deadline.remaining_s())):
                return await self._part(self._shared(share), question, query)
        except (TimeoutError, FathomError, KeyError, *_LANCE_ERRORS):
            return None

    async def _joined(
        self,
        scope: TenantScope,
        question: Question,
        shares: Sequence[Shared],
        found: Sequence[Part | None],
        own: Part | None = None,
    ) -> Candidates:
        """All candidates as one list; a collection of which only one leg answered does not count as searched."""
        legs = set(own[0].legs) if own else {"dense", "sparse"} if question.mode == "hybrid" else {question.mode}
        beside = [(share, part) for share, part in zip(shares, found, strict=True) if part and legs <= {*part[0].legs}]
        parts = [*([own] if own else []), *(part for _, part in beside)]
        whole = merged(parts, self._settings.candidates) if parts else await self._nothing(scope)
        return replace(whole, unsearched=_unsearched(scope, question, [share for share, _ in beside]))

    # ---- the two legs ----------------------------------------------------------------------------------

    async def _legs(
        self, corpus: Corpus, question: Question, where: str | None, asked: Query
    ) -> tuple[dict[str, Leg], Float32, float]:
        """The lists that answered, the question's vector and the milliseconds that it took."""
        sparse = asyncio.create_task(self._tolerant(partial(self._sparse, corpus, question, where)))
        try:
            query, embed_ms = await asked
            wanted = question.mode != "sparse" and bool(query.any())
            found = {
                "dense": await self._tolerant(partial(self._dense, corpus, query, where)) if wanted else None,
                "sparse": await sparse,
            }
        finally:
            sparse.cancel()
        legs = {name: leg for name, leg in found.items() if leg is not None}
        if not legs:
            raise Unavailable("the index did not answer in time; try again", retry_after_s=1)
        return legs, query, embed_ms

    async def _tolerant(self, work: Callable[[], Awaitable[Leg | None]]) -> Leg | None:
        """The leg's list, None when it is late or fails: the other one may still answer honestly."""
        try:
            async with asyncio.timeout(min(self._settings.leg_timeout_s, deadline.remaining_s())):
                return await work()
        except (TimeoutError, KeyError, *_LANCE_ERRORS):
            return None

    async def _sparse(self, corpus: Corpus, question: Question, where: str | None) -> Leg | None:
        if question.mode == "dense":
            return None
        if not corpus.release.chunks:  # a shared collection without documents has no index either
            return Leg(np.zeros(0, np.int64), np.zeros(0, np.float32))
        match = MatchQuery(readable(question.text), "lexical")
        query = corpus.table.query().nearest_to_text(match).limit(self._settings.candidates)
        if where is not None:
            query = query.where(where)
        found = await query.select([ROW_ID, "_score"]).to_arrow()
        return Leg(_row_ids(found), found["_score"].to_numpy().astype(np.float32))

    async def _dense(self, corpus: Corpus, query: Float32, where: str | None) -> Leg:
        depth = self._settings.candidates
        if corpus.rows is not None and len(corpus.rows.ids) <= EXACT_ROWS:
            allowed = None if where is None else await self._allowed(corpus, where)
            return await asyncio.to_thread(corpus.rows.nearest, query, depth, allowed)
        index = corpus.release.profile.get("vector_index", {})
        refine = int(index.get("refine") or REFINE)
        search = corpus.table.query().nearest_to(query).nprobes(int(index.get("probes") or PROBES)).ef(2 * depth)
        # With the rows in memory the exact cosines cost nothing; else the index reads and compares them itself.
        search = search.limit(refine * depth) if corpus.rows else search.limit(depth).refine_factor(refine)
        if where is not None:
            search = search.where(where)
        found = await search.select([ROW_ID, "_distance"]).to_arrow()
        if corpus.rows is not None:
            return corpus.rows.best_of(_row_ids(found), query, depth)
        return Leg(_row_ids(found), -found["_distance"].to_numpy().astype(np.float32))

    async def _allowed(self, corpus: Corpus, where: str) -> Int64:
        found = await corpus.table.query().where(where).with_row_id().select([ROW_ID]).to_arrow()
        return _row_ids(found)

    # ---- the question's vector ---------------------------------------------------------------------------

    async def _query(self, release: Release, question: Question) -> tuple[Float32, float]:
        """(d,) float32 unit vector and the milliseconds it took; zeros when only full-text search can answer."""
        began = time.perf_counter()
        try:
            query = await self._encoder.encode_query(release.embedder, readable(question.text))
        except FathomError:
            if question.mode == "dense":
                raise
            query = np.zeros(release.dimension, np.float32)
        return query, (time.perf_counter() - began) * 1000

    async def _nothing(self, scope: TenantScope) -> Candidates:
        model = scope.release.embedder if scope.release else scope.config.embedder
        encoder = await self._encoder.encoder(model)
        return no_candidates(
            np.zeros(encoder.dimension, np.float32), ("dense", "sparse"), {"embed": 0.0, "search": 0.0}
        )

    # ---- rows ------------------------------------------------------------------------------------------------

    async def _hydrated(
        self, corpus: Corpus, legs: dict[str, Leg], query: Float32
    ) -> tuple[Int64, Sequence[Any], Float32]:
        none = Leg(np.zeros(0, np.int64), np.zeros(0, np.float32))
        rows = union(legs.get("dense", none), legs.get("sparse", none))
        if corpus.rows is not None:
            places = corpus.rows.positions(rows)
            return rows, corpus.rows.passages(places), corpus.rows.vectors[places]
        if not len(rows):
            return rows, (), np.zeros((0, len(query)), np.float32)
        self._warm(corpus)
        table = await self._translated(
            corpus.table.take_row_ids(rows.tolist()).with_row_id().select([*corpus.columns, ROW_ID]).to_arrow()
        )
        table = table.take(pa.array(np.argsort(_row_ids(table), kind="stable")))
        return rows, passages_of(table), vector_matrix(table["vector"])

    def _warm(self, corpus: Corpus) -> None:
        """Load a version's rows beside the questions, once it was asked often enough to be worth it."""
        corpus.uses += 1
        fits = corpus.release.chunks * BYTES_PER_ROW <= self._settings.rows_bytes
        if corpus.loading is None and fits and corpus.uses >= WARM_USES:
            corpus.loading = asyncio.create_task(self._load(corpus))

    async def _load(self, corpus: Corpus) -> None:
        query = corpus.table.query().with_row_id().select([*corpus.columns, ROW_ID])
        corpus.rows = await asyncio.to_thread(RowStore, await self._translated(query.to_arrow()), corpus.owner)
        self._trim()

    # ---- open versions -------------------------------------------------------------------------------------

    async def _corpus(self, scope: TenantScope, release: Release) -> Corpus:
        """The open version; of many callers at once one opens it. A failed opening is not kept, whatever failed."""
        key = (scope.corpus_uri, release.table, release.lance_version, "")
        return await self._kept(key, lambda: self._opened(scope, release))

    async def _shared(self, share: Shared) -> Corpus:
        """The part of the owner's open version that is shared."""
        key = (share.corpus_uri, share.release.table, share.release.lance_version, share.name)
        return await self._kept(key, lambda: self._isolated(share))

    async def _kept(self, key: Key, opening: Callable[[], Coroutine[Any, Any, Corpus]]) -> Corpus:
        task = self._open.get(key)
        if task is None:
            task = self._open[key] = asyncio.create_task(opening())
            task.add_done_callback(partial(self._forget_failed, key))
        self._open.move_to_end(key)
        return await asyncio.shield(task)

    def _forget_failed(self, key: Key, task: asyncio.Task[Corpus]) -> None:
        if _corpus_of(task) is None and self._open.get(key) is task:
            del self._open[key]

    async def _opened(self, scope: TenantScope, release: Release) -> Corpus:
        table = await self._table(scope.corpus_uri, release)
        corpus = Corpus(table, release, columns_of((await self._translated(table.schema())).names))
        if release.chunks <= EAGER_ROWS and release.chunks * BYTES_PER_ROW <= self._settings.rows_bytes:
            await self._load(corpus)
        self._trim()
        return corpus

    async def _isolated(self, share: Shared) -> Corpus:
        source = await self._table(share.corpus_uri, share.release)
        table = await self._translated(isolated(source, share, self._settings.rows_bytes // BYTES_PER_ROW))
        rows = await self._translated(table.count_rows())
        release = replace(share.release, chunks=rows, profile={})
        corpus = Corpus(table, release, columns_of((await self._translated(table.schema())).names), share.key)
        await self._load(corpus)
        self._trim()
        return corpus

    async def _table(self, uri: str, release: Release) -> lancedb.AsyncTable:
        connection = await self._translated(lancedb.connect_async(uri, session=self._session))
        table: lancedb.AsyncTable = await self._translated(connection.open_table(release.table))
        await self._translated(table.checkout(release.lance_version))
        return table

    async def _translated(self, work: Any) -> Any:
        try:
            return await work
        except _LANCE_ERRORS as error:
            raise Unavailable(
                f"the index version cannot be read ({type(error).__name__}); try again, it may have been replaced",
                retry_after_s=1,
            ) from error

    def _trim(self) -> None:
        """Forget the versions asked longest ago, until the count and the memory fit their caps.

        Questions at work keep their version by their own reference; nothing is closed under them.
        """
        held = {key: _held(task) for key, task in self._open.items()}
        total = sum(held.values())
        for key in list(self._open)[:-1]:
            if len(self._open) <= self._settings.open_tables and total <= self._settings.rows_bytes:
                return
            total -= held[key]
            del self._open[key]


def _corpus_of(task: asyncio.Task[Corpus]) -> Corpus | None:
    finished = task.done() and not task.cancelled() and task.exception() is None
    return task.result() if finished else None


def _asked(scope: TenantScope, question: Question) -> list[Shared]:
    """The granted collections that the question's own list of collections, if it has one, allows."""
    return [share for share in scope.shared if question.collections is None or share.name in question.collections]


def _unsearched(scope: TenantScope, question: Question, searched: Sequence[Shared]) -> tuple[str, ...]:
    """What the configuration names and nobody searched: not granted, not there, closed or late look alike."""
    names = dict.fromkeys(scope.config.shared_collections)
    done = {share.name for share in searched}
    asked = (name for name in names if question.collections is None or name in question.collections)
    return tuple(name for name in asked if name not in done)


def _held(task: asyncio.Task[Corpus]) -> int:
    corpus = _corpus_of(task)
    return corpus.rows.nbytes if corpus and corpus.rows else 0


def _row_ids(table: pa.Table) -> Int64:
    ids: Int64 = table[ROW_ID].to_numpy().astype(np.int64)
    return ids


def sample_texts(scope: TenantScope, limit: int) -> list[str]:
    """The texts of at most `limit` chunks, evenly spread over the pinned version's rows; none without a version.

    Raises `Unavailable` when the version cannot be read.
    """
    release = scope.release
    if release is None or not release.chunks:
        return []
    try:
        dataset = lance.dataset(f"{scope.corpus_uri}/{release.table}.lance", version=release.lance_version)
        rows = dataset.count_rows()
        places = np.unique(np.linspace(0, rows - 1, min(limit, rows)).astype(np.int64))
        return list(dataset.take(places.tolist(), columns=["text"])["text"].to_pylist())
    except _LANCE_ERRORS as error:
        raise Unavailable(f"the index version cannot be read ({type(error).__name__}); try again") from error
