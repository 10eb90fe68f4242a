"""Manifests in memory: read once, bounded by their bytes, searched in the order of their ids."""

from __future__ import annotations

import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tenants.corpus import documents
from tenants.corpus.documents import Manifests
from tenants.corpus.objects import open_objects
from tenants.errors import IntegrityError


@pytest.fixture
def base(tmp_path: Path) -> str:
    objects = open_objects(str(tmp_path))
    ids = ["b", "a/1", "ü", "a", "\U0001f600", "\uffff"]
    for number in range(3):
        row = {"document_id": ids, "collection": ids, "digest": ids, "chunks": list(range(len(ids)))}
        buffer = io.BytesIO()
        pq.write_table(pa.table(row), buffer)
        objects.put_new(f"manifests/{number}.parquet", buffer.getvalue())
    return str(tmp_path)


def test_a_manifest_is_read_once_and_the_oldest_gives_way(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[str] = Counter()
    read = documents._read

    def counted(base: str, key: str) -> pa.Table:
        reads[key] += 1
        return read(base, key)

    monkeypatch.setattr(documents, "_read", counted)
    size = read(base, "manifests/0.parquet").nbytes
    manifests = Manifests(2 * size)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: manifests.get(base, "manifests/0.parquet"), range(32)))
    assert reads == {"manifests/0.parquet": 1}
    for number in (1, 2, 0):
        manifests.get(base, f"manifests/{number}.parquet")
    assert reads["manifests/0.parquet"] == 2
    small = Manifests(size - 1)
    assert small.get(base, "manifests/1.parquet").num_rows == small.get(base, "manifests/1.parquet").num_rows == 6


def test_ids_stand_in_pythons_order_and_are_found(base: str) -> None:
    manifest = Manifests(1 << 20).get(base, "manifests/0.parquet")
    ids = manifest["document_id"].to_pylist()
    assert ids == sorted(ids)
    for name in (*ids, "", "a/0", "zzz"):
        assert documents._place(manifest, name) == sum(each <= name for each in ids)
    assert documents._place(manifest.slice(0, 0), "a") == 0


def test_a_missing_manifest_is_told_and_not_remembered(base: str) -> None:
    manifests = Manifests(1 << 20)
    for _ in range(2):
        with pytest.raises(IntegrityError):
            manifests.get(base, "manifests/9.parquet")
