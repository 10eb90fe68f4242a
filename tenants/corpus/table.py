"""A tenant's Lance table: open at a version, stand on a release, replace documents in one commit.

Only the holder of the tenant's lease changes a table. Readers pin the version that their release names, so
commits that were never published (a crash, a lost lease) stay unseen; the next writer goes back to the release
before it writes on top.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import FragmentMetadata

from tenants.corpus.schema import TOKEN_IDS, corpus_schema
from tenants.errors import LeaseLost
from tenants.scope import Release, TenantScope

INDEX_CACHE_BYTES = 128 << 20
METADATA_CACHE_BYTES = 64 << 20
RETOKENISED_ROWS = 1_024
_OFFSET_BITS = 32  # a row address is fragment id << 32 | offset in the fragment


@lru_cache(maxsize=1)
def _session() -> lance.Session:
    """One small cache for this process's writers; Lance's own default is 7 GB."""
    return lance.Session(index_cache_size_bytes=INDEX_CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES)


def table_uri(scope: TenantScope, table: str) -> str:
    """Where LanceDB keeps the table."""
    return f"{scope.corpus_uri}/{table}.lance"


def open_release(scope: TenantScope, release: Release) -> lance.LanceDataset:
    """The rows that `release` names."""
    return lance.dataset(table_uri(scope, release.table), version=release.lance_version, session=_session())


def open_latest(uri: str) -> lance.LanceDataset | None:
    """The table's newest version, published or not; None when there is no table."""
    try:
        return lance.dataset(uri, session=_session())
    except (ValueError, FileNotFoundError):
        return None


def ensure_table(uri: str, dimension: int) -> lance.LanceDataset:
    """The table at `uri`, made empty when there is none, so that workers can write fragments for it.

    One that is older than a column gets it, null in every row: nothing is read or rewritten for that.
    """
    found = open_latest(uri)
    return _widened(found) if found is not None else _emptied(uri, dimension)


def stand_on(scope: TenantScope, release: Release | None, table: str, dimension: int) -> lance.LanceDataset:
    """The table's newest version, holding exactly what `release` does; empty when `release` is none of this table."""
    uri = table_uri(scope, table)
    latest = ensure_table(uri, dimension)
    if release is None or release.table != table:
        return latest if latest.count_rows() == 0 else _emptied(uri, dimension)
    if latest.version == release.lance_version:
        return latest
    restored = latest.checkout_version(release.lance_version)
    restored.restore()
    return _widened(restored)


def replace_documents(
    dataset: lance.LanceDataset, removed: Sequence[str], fragments: Iterable[str]
) -> lance.LanceDataset:
    """One commit: every row of the documents `removed` goes, the rows of `fragments` (JSON texts) come.

    Row addresses are deleted, never a predicate: no id becomes SQL, and the transaction log holds no id. Raises
    `LeaseLost` when somebody else committed in between.
    """
    updated, emptied = _without(dataset, removed)
    fresh = [FragmentMetadata.from_json(text) for text in fragments]
    operation = lance.LanceOperation.Update(
        removed_fragment_ids=emptied, updated_fragments=updated, new_fragments=fresh
    )
    try:
        committed = lance.LanceDataset.commit(dataset, operation, read_version=dataset.version, max_retries=0)
    except OSError as error:
        if "conflict" in str(error).lower():
            raise LeaseLost("another writer changed the table; run the job again to go on from there") from error
        raise
    if committed.version != dataset.version + 1:
        raise LeaseLost("another writer changed the table; run the job again to go on from there")
    return committed


def retokenised(dataset: lance.LanceDataset, ids: Callable[[Sequence[str]], list[bytes]]) -> lance.LanceDataset:
    """The table with every row's `token_ids` made anew from `lexical`; no other column is read or written."""

    def tokenise(batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch([pa.array(ids(batch["lexical"].to_pylist()), TOKEN_IDS.type)], schema=schema)

    schema = pa.schema([TOKEN_IDS])
    if has_token_ids(dataset):
        dataset.drop_columns([TOKEN_IDS.name])
    if dataset.count_rows():
        made = lance.batch_udf(output_schema=schema)(tokenise)
        dataset.add_columns(made, read_columns=["lexical"], batch_size=RETOKENISED_ROWS)
    return _widened(dataset)


def has_token_ids(dataset: lance.LanceDataset) -> bool:
    """Whether the table has the column at all."""
    return TOKEN_IDS.name in dataset.schema.names


def document_counts(dataset: lance.LanceDataset) -> tuple[pa.Table, int, int]:
    """(document_id, chunks) rows in order of id, rows that repeat a chunk id, and the sum of tokens."""
    rows = dataset.to_table(columns=["chunk_id", "document_id", "tokens"])
    counts = rows.group_by("document_id").aggregate([("chunk_id", "count")]).rename_columns(["document_id", "chunks"])
    repeated = rows.num_rows - int(pc.count_distinct(rows["chunk_id"]).as_py())
    return counts.sort_by("document_id"), repeated, int(pc.sum(rows["tokens"]).as_py() or 0)


def _without(dataset: lance.LanceDataset, removed: Sequence[str]) -> tuple[list[FragmentMetadata], list[int]]:
    """(fragments with new deletion vectors, ids of fragments that lost every row)."""
    if not removed:
        return [], []
    rows = dataset.to_table(columns=["document_id"], with_row_address=True)
    hit = pc.is_in(rows["document_id"], value_set=pa.array(removed, pa.string()))
    addresses = rows.filter(hit)["_rowaddr"].to_numpy().astype(np.uint64)
    owners = addresses >> np.uint64(_OFFSET_BITS)
    updated, emptied = [], []
    for owner in np.unique(owners):
        offsets = addresses[owners == owner] & np.uint64((1 << _OFFSET_BITS) - 1)
        left = dataset.get_fragment(int(owner)).delete_rows(offsets.tolist())
        if left is None:
            emptied.append(int(owner))
        else:
            updated.append(left)
    return updated, emptied


def _widened(dataset: lance.LanceDataset) -> lance.LanceDataset:
    if not has_token_ids(dataset):
        dataset.add_columns(TOKEN_IDS)
    return dataset


def _emptied(uri: str, dimension: int) -> lance.LanceDataset:
    operation = lance.LanceOperation.Overwrite(corpus_schema(dimension), [])
    return lance.LanceDataset.commit(uri, operation)


def fragment_rows(text: str) -> int:
    """Rows of a fragment's metadata."""
    return int(json.loads(text)["physical_rows"])
