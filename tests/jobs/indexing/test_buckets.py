"""Sources in an object store, on a real S3 server (moto): what is listed, under which names, and what fails."""

from __future__ import annotations

import gzip
import importlib.util
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import boto3
import pytest

from cluster.bench.servers import s3
from jobs.indexing.buckets import list_objects, read_object
from jobs.indexing.fetch import Fetcher
from jobs.indexing.parse import Parser
from jobs.indexing.reasons import ParseFailure, Reason
from jobs.indexing.source import SourceError, SourceItem, items_table, list_sources
from services.settings import Limits

ROW = {"_id": "r1", "title": "One", "text": "First row."}
ODD = ("a b+c.txt", "50%.txt", "x%2Fy.txt", "größe/日本.txt", "q?&=#.txt", "docs2.txt")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("moto") is None, reason="no S3 server is installed: pip install -e .[dev]"
)


class Bucket:
    """An empty bucket to put objects into with Amazon's own client, and the URL of what is in it."""

    def __init__(self, name: str) -> None:
        self._name, self._client, self.url = name, boto3.client("s3"), f"s3://{name}"
        self._client.create_bucket(Bucket=name)

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._name, Key=key, Body=data)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._name, Key=key)


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with s3() as running, pytest.MonkeyPatch.context() as patched:
        for name, value in running.environment.items():
            patched.setenv(name, value)
        patched.setenv("AWS_DEFAULT_REGION", running.environment["AWS_REGION"])
        yield


@pytest.fixture
def bucket() -> Bucket:
    return Bucket(f"documents-{uuid.uuid4().hex}")


def listed(*specs: str, limits: Limits | None = None) -> tuple[dict[str, SourceItem], dict[str, Reason]]:
    found = list(list_sources(specs, limits or Limits()))
    errors = {item.document_id: item.reason for item in found if isinstance(item, SourceError)}
    return {item.document_id: item for item in found if isinstance(item, SourceItem)}, errors


def test_a_prefix_is_listed_by_the_names_below_it(bucket: Bucket) -> None:
    for key in ("docs/a.txt", "docs/deep/er/b.md", "docs2/c.txt", "d.txt"):
        bucket.put(key, f"Words of {key}.".encode())
    for spec in (f"{bucket.url}/docs", f"{bucket.url}/docs/"):
        items, errors = listed(spec)
        assert (set(items), errors) == ({"a.txt", "deep/er/b.md"}, {})
        assert {item.source for item in items.values()} == {spec}
    assert set(listed(bucket.url)[0]) == {"docs/a.txt", "docs/deep/er/b.md", "docs2/c.txt", "d.txt"}
    assert set(listed(f"{bucket.url}/docs/a.txt")[0]) == {"a.txt"}


def test_more_objects_than_one_page_of_the_store_holds(bucket: Bucket) -> None:
    for number in range(1_001):
        bucket.put(f"many/{number:04d}.txt", b"words")
    assert sorted(listed(f"{bucket.url}/many")[0]) == [f"{number:04d}.txt" for number in range(1_001)]


@pytest.mark.parametrize("key", ODD)
def test_odd_names_are_listed_and_read(bucket: Bucket, key: str) -> None:
    bucket.put(f"docs/{key}", b"Words about whales.")
    items, errors = listed(f"{bucket.url}/docs/")
    assert (set(items), errors) == ({key}, {})
    assert b"".join(read_object(items[key].uri)) == b"Words about whales."


def test_what_is_listed_is_parsed(bucket: Bucket, samples: dict[str, bytes]) -> None:
    for name in ("guide.md", "policy.docx", "paper.pdf", "bundle.zip"):
        bucket.put(name, samples[name])
    bucket.put("rows.jsonl", json.dumps(ROW).encode() + b"\nno json\n")
    bucket.put("packed.jsonl.gz", gzip.compress(json.dumps(ROW | {"_id": "r2"}).encode()))
    items, errors = listed(bucket.url)
    assert {"guide.md", "policy.docx", "paper.pdf", "r1", "r2"} < set(items)
    assert any(name.startswith("bundle.zip/") for name in items)
    assert list(errors.values()) == [Reason.MALFORMED]
    with Parser(Limits(), Fetcher(Limits(), None)) as parser:
        documents, failures = parser.parse(items_table(list(items.values()), "c"))
    assert failures.num_rows == 0
    texts = {row["document_id"]: row["text"] for row in documents.to_pylist()}
    assert texts["policy.docx"].startswith("# Leave policy")
    assert (texts["r1"], set(texts)) == ("First row.", set(items))


def test_a_digest_changes_with_the_bytes_and_only_with_them(bucket: Bucket) -> None:
    bucket.put("a.txt", b"one")
    first = listed(bucket.url)[0]["a.txt"]
    again = listed(bucket.url)[0]["a.txt"]
    assert first.digest == again.digest
    assert isinstance(first.updated_at, datetime)
    assert first.updated_at.tzinfo is not None
    assert first.updated_at <= datetime.now(UTC)
    bucket.put("a.txt", b"two")
    assert listed(bucket.url)[0]["a.txt"].digest != first.digest


def test_markers_of_folders_are_no_documents(bucket: Bucket) -> None:
    for key in ("docs/", "docs/sub/", "docs/sub/a.txt"):
        bucket.put(key, b"words" if key.endswith("txt") else b"")
    items, errors = listed(f"{bucket.url}/docs")
    assert (set(items), errors) == ({"sub/a.txt"}, {})


def test_what_is_not_there_is_one_error(bucket: Bucket) -> None:
    bucket.put("docs/a.txt", b"words")
    nothing = f"{bucket.url}/nothing"
    assert listed(nothing) == ({}, {nothing: Reason.FETCH_FAILED})
    assert listed(f"{bucket.url}-no/docs") == ({}, {f"{bucket.url}-no/docs": Reason.FETCH_FAILED})
    items, errors = listed(nothing, f"{bucket.url}/docs")
    assert (set(items), set(errors)) == ({"a.txt"}, {nothing})


def test_an_object_that_went_after_it_was_listed_is_an_error_of_its_own(bucket: Bucket) -> None:
    for name in ("a.txt", "b.txt"):
        bucket.put(name, b"Words about whales.")
    items, _ = listed(bucket.url)
    bucket.delete("a.txt")
    with Parser(Limits(), Fetcher(Limits(), None)) as parser:
        documents, failures = parser.parse(items_table(list(items.values()), "c"))
    assert documents["document_id"].to_pylist() == ["b.txt"]
    assert [(row["document_id"], row["reason"]) for row in failures.to_pylist()] == [("a.txt", "not_found")]
    with pytest.raises(ParseFailure, match="gone"):
        b"".join(read_object(items["a.txt"].uri))


def test_an_object_above_the_limit_is_refused(bucket: Bucket) -> None:
    bucket.put("large.jsonl", json.dumps(ROW | {"text": "words " * 1_000}).encode())
    bucket.put("small.jsonl", json.dumps(ROW).encode())
    items, errors = listed(bucket.url, limits=Limits(file_bytes=1_000))
    assert (set(items), errors) == ({"r1"}, {"large.jsonl": Reason.TOO_LARGE})


def test_the_store_s_order_is_kept(bucket: Bucket) -> None:
    for name in ("c.txt", "a.txt", "b/x.txt"):
        bucket.put(name, b"words")
    assert [found.name for found in list_objects(bucket.url)] == ["a.txt", "b/x.txt", "c.txt"]
