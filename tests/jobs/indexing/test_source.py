"""Listing: every file and line is named once, in order; what is bad is an error of its own."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from jobs.indexing.items import items_table
from jobs.indexing.local import list_rows
from jobs.indexing.reasons import Reason
from jobs.indexing.schemas import SOURCE_SCHEMA
from jobs.indexing.source import SourceError, SourceItem, list_sources
from services.settings import Limits
from tenants.errors import InvalidInput
from tenants.ids import bytes_digest


def listed(spec: Path | str, limits: Limits | None = None) -> tuple[list[SourceItem], list[SourceError]]:
    found = list(list_sources([str(spec)], limits or Limits()))
    return [i for i in found if isinstance(i, SourceItem)], [e for e in found if isinstance(e, SourceError)]


def test_a_folder_is_listed_in_order_with_relative_ids_and_digests(tmp_path: Path) -> None:
    for name in ("b/two.md", "a.txt", "b/one.md", "b/.git/config", "cafe\u0301.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    items, errors = listed(tmp_path)
    assert [i.document_id for i in items] == ["a.txt", "caf\u00e9.md", "b/one.md", "b/two.md"]
    assert errors == []
    assert items[0].digest == bytes_digest(b"a.txt")
    assert {i.source for i in items} == {str(tmp_path)}
    assert items_table(items, "c").schema == SOURCE_SCHEMA


def test_a_file_a_glob_and_a_missing_path(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("x/a.md", "x/b.txt", "c.md"):
        (tmp_path / name).write_text("words")
    assert [i.document_id for i in listed(tmp_path / "c.md")[0]] == ["c.md"]
    assert [i.document_id for i in listed(tmp_path / "**" / "*.md")[0]] == ["c.md", "x/a.md"]
    with pytest.raises(InvalidInput, match="check the path"):
        listed(tmp_path / "missing")


def test_links_stay_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("keys")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "real.md").write_text("words")
    (root / "sub" / "inside.md").symlink_to("../real.md")
    (root / "outside.md").symlink_to(tmp_path / "secret")
    (root / "loop.md").symlink_to("loop.md")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.md")
    items, errors = listed(root)
    assert {i.document_id for i in items} == {"real.md", "sub/inside.md"}
    assert {e.document_id: e.reason for e in errors} == {
        "outside.md": Reason.OUTSIDE_ROOT,
        "loop.md": Reason.UNREADABLE,
        "pipe.md": Reason.UNSUPPORTED,
    }


def test_names_that_are_no_utf8_or_hold_control_characters_do_not_stop_the_list(tmp_path: Path) -> None:
    (tmp_path / "new\nline.md").write_text("words")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.md")).write_text("words")
    items, errors = listed(tmp_path)
    assert [i.document_id for i in items] == ["bad\ufffd.md"]
    assert [e.reason for e in errors] == [Reason.INVALID_ID]


def test_rows_good_and_bad(tmp_path: Path) -> None:
    lines = [
        b'{"_id": "a", "title": "T", "text": "words", "metadata": {"k": [1]}, "updated_at": "2024-01-02T03:04:05Z"}',
        b"",
        b'{"id": 7, "text": "words"}',
        b"not json",
        b'{"text": "no id"}',
        b'{"id": "x", "text": "   "}',
        b'{"id": "x", "text": 5}',
        b'["list"]',
        b'{"id": "deep", "text": "t", "metadata": ' + b'{"a":' * 40 + b"1" + b"}" * 41,
        b'{"id": "deeper", "text": "t", "other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id": "\\u0000", "text": "words"}',
        b'\xff\xfe{"id": "w"}',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    items, errors = listed(path)
    assert [i.document_id for i in items] == ["a", "7"]
    assert items[0].digest == bytes_digest(lines[0])
    assert items[0].updated_at is not None
    assert items[0].updated_at.isoformat() == "2024-01-02T03:04:05+00:00"
    assert [(e.document_id.rsplit(":", 1)[1], e.reason) for e in errors] == [
        ("4", Reason.MALFORMED),
        ("5", Reason.INVALID_ID),
        ("6", Reason.EMPTY),
        ("7", Reason.MALFORMED),
        ("8", Reason.MALFORMED),
        ("9", Reason.NESTED_TOO_DEEP),
        ("10", Reason.NESTED_TOO_DEEP),
        ("11", Reason.INVALID_ID),
        ("12", Reason.MALFORMED),
    ]


def test_a_gzip_that_breaks_off_gives_its_rows_and_one_error(tmp_path: Path) -> None:
    rows = b"".join(json.dumps({"id": n, "text": os.urandom(30).hex()}).encode() + b"\n" for n in range(5_000))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(rows)[:-5_000])
    items, errors = listed(path)
    assert len(items) > 4_000
    assert [e.reason for e in errors] == [Reason.MALFORMED]


def test_a_line_above_the_limit_is_skipped_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id":1,"text":"' + b"x" * 5_000_000 + b'"}\n{"id":2,"text":"ok"}\n')
    items, errors = listed(path, Limits(body_bytes=100_000))
    assert [i.document_id for i in items] == ["2"]
    assert [e.reason for e in errors] == [Reason.TOO_LARGE]


def test_listing_rows_holds_one_line_at_a_time() -> None:
    class Endless:
        """A stream of 20,000 rows that is never in memory: stands for a file larger than it."""

        def __init__(self) -> None:
            self.left = 20_000

        def readline(self, _: int) -> bytes:
            self.left -= 1
            return b'{"id": %d, "text": "some words"}\n' % self.left if self.left >= 0 else b""

    tracemalloc.start()
    count = sum(1 for _ in list_rows(Endless(), "u", "s", Limits()))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 1_000_000


def test_archive_members_are_documents_of_their_own(tmp_path: Path, samples: dict[str, bytes]) -> None:
    (tmp_path / "bundle.zip").write_bytes(samples["bundle.zip"])
    items, errors = listed(tmp_path)
    assert [i.document_id for i in items] == [
        "bundle.zip/a.md", "bundle.zip/deep/b.html", "bundle.zip/inner.zip/c.txt", "bundle.zip/p.pdf",
    ]  # fmt: skip
    assert errors == []
    assert items[0].digest == bytes_digest(samples["guide.md"])


def test_a_tenant_names_no_path_of_the_machine(tmp_path: Path) -> None:
    for spec in (str(tmp_path), "/etc/passwd", "file:///etc/passwd", "ftp://example.org/x"):
        with pytest.raises(InvalidInput):
            list(list_sources([spec], Limits(), allow=("https://example.org/",), untrusted=True))
