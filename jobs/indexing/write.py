"""Embedded chunks → uncommitted Lance fragments and one receipt per shard. Runs on a worker.

A retried task writes the same rows, and only the first receipt of a shard counts: what another attempt wrote stays
an orphan that garbage collection finds. Every attempt reads from a fresh reader and the written rows are counted,
because a half-consumed reader loses rows without an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments

from jobs.indexing.job import Receipt
from tenants.corpus.objects import Objects, open_objects, sync_files
from tenants.errors import Conflict, IntegrityError, Unavailable

WRITE_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.05


def write_shard(
    table: pa.Table,
    documents: tuple[tuple[str, str, str, str, int, int], ...],
    errors: tuple[tuple[str, str, str, str], ...],
    seconds: Mapping[str, float],
    *,
    table_uri: str,
    objects: Objects,
    folder: str,
    shard: int,
    tokenizer: str = "",
) -> Receipt:
    """Write `table` (corpus_schema) below the Lance table at `table_uri`; leave and return the shard's receipt.

    Raises `Unavailable` when the storage refuses every attempt, `Conflict` when the job's work was cleared away
    meanwhile, as erasing documents and deleting a tenant do: then nothing of the shard stays.
    """
    started = time.perf_counter()
    _check_wanted(objects, folder)
    fragments = write_rows(table, table_uri)
    try:
        _check_wanted(objects, folder)
    except Conflict:
        discard(fragments, table_uri)
        raise
    tokens = sum(table["tokens"].to_pylist())
    spent = {**seconds, "write": time.perf_counter() - started}
    receipt = Receipt(shard, table.num_rows, tokens, fragments, documents, errors, spent, tokenizer)
    if not objects.put_new(receipt_key(folder, shard), receipt_to_json(receipt).encode()):
        return next(load_receipts(objects, folder, shard))
    return receipt


def write_rows(table: pa.Table, table_uri: str) -> tuple[str, ...]:
    """Durable, uncommitted fragments that hold exactly the rows of `table`; JSON texts."""
    if not table.num_rows:
        return ()
    for attempt in range(WRITE_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
        try:
            fragments = _write_once(table, table_uri)
        except OSError as error:
            last = error
            continue
        sync_files(f"{table_uri}/data/{file.path}" for fragment in fragments for file in fragment.files)
        return tuple(json.dumps(fragment.to_json()) for fragment in fragments)
    raise Unavailable(
        f"the storage refused to take a fragment {WRITE_ATTEMPTS} times ({type(last).__name__}); "
        "check its space and rights, then resume the job",
        retry_after_s=30,
    ) from last


def discard(fragments: Sequence[str], table_uri: str) -> None:
    """Delete the files of uncommitted fragments."""
    objects = open_objects(table_uri)
    for fragment in fragments:
        for file in json.loads(fragment)["files"]:
            objects.delete(f"data/{file['path']}")


def _check_wanted(objects: Objects, folder: str) -> None:
    if objects.get(f"{folder}/plan.json") is None:
        raise Conflict("the job's work was cleared away, as erasing documents does; start the job again")


def _write_once(table: pa.Table, table_uri: str) -> list[FragmentMetadata]:
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    fragments: list[FragmentMetadata] = write_fragments(reader, table_uri, schema=table.schema, mode="append")
    written = sum(fragment.num_rows for fragment in fragments)
    if written != table.num_rows:
        raise IntegrityError(f"{table.num_rows} rows were given to the storage, {written} were written; try again")
    return fragments


def receipt_key(folder: str, shard: int) -> str:
    """Where the receipt of shard `shard` lies below the tenant's base."""
    return f"{folder}/receipts/{shard:06d}.json"


def written_shards(objects: Objects, folder: str) -> set[int]:
    """Numbers of the shards that have a receipt."""
    return {int(Path(key).stem) for key in objects.keys(f"{folder}/receipts")}


def load_receipts(objects: Objects, folder: str, *shards: int) -> Iterator[Receipt]:
    """The receipts of `shards`, by default of all that have one, in order."""
    for shard in shards or sorted(written_shards(objects, folder)):
        data = objects.get(receipt_key(folder, shard))
        if data is None:
            raise IntegrityError(f"the receipt of shard {shard} is gone; start the job again")
        yield receipt_from_json(data)


def receipt_to_json(receipt: Receipt) -> str:
    """A receipt as JSON text."""
    value = {name: getattr(receipt, name) for name in Receipt.__dataclass_fields__}
    return json.dumps({**value, "seconds": dict(receipt.seconds)})


def receipt_from_json(text: str | bytes) -> Receipt:
    """The reverse of `receipt_to_json`."""
    value = json.loads(text)
    return Receipt(
        shard=value["shard"],
        rows=value["rows"],
        tokens=value["tokens"],
        fragments=tuple(value["fragments"]),
        documents=tuple((row[0], row[1], row[2], row[3], row[4], row[5]) for row in value["documents"]),
        errors=tuple((row[0], row[1], row[2], row[3]) for row in value["errors"]),
        seconds=value["seconds"],
        tokenizer=value.get("tokenizer", ""),  # receipts of an interrupted job may be older than the field
    )
