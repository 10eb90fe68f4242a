"""Lists files, folders, globs of this machine and the lines of JSONL streams. Holds one line or block at a time."""

from __future__ import annotations

import glob
import gzip
import io
import os
import stat
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from blake3 import blake3

from jobs.indexing.archive import MEMBER
from jobs.indexing.items import Listed, SourceError, SourceItem, checked_id
from jobs.indexing.reasons import ParseFailure, Reason
from jobs.indexing.rows import decode_row, parse_time
from jobs.indexing.sandbox import Member, Sandbox
from services.settings import Limits
from tenants.errors import InvalidInput
from tenants.ids import DIGEST_CHARS, bytes_digest

BLOCK_BYTES = 1 << 20
ROW_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
PACKAGE_SUFFIXES = (".docx", ".pptx", ".xlsx", ".epub")
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv"})


def list_local(spec: str, limits: Limits) -> Iterator[Listed]:
    """List a path, folder or glob of this machine in sorted order.

    The source root is the folder, a file's parent, or a glob's fixed part. Raises `InvalidInput` when the
    path does not exist.
    """
    files, root, source = _local_files(spec)
    with Sandbox(limits) as sandbox:
        for path in files:
            name = _relative(path, root)
            try:
                yield from _list_file(path, name, root, source, limits, sandbox)
            except ParseFailure as failure:
                yield SourceError(name, failure.reason, failure.message, source)
            except OSError as error:
                yield SourceError(
                    name, Reason.UNREADABLE, f"the file cannot be read: {error.strerror or error}", source
                )


def list_rows(stream: BinaryIO, uri: str, source: str, limits: Limits) -> Iterator[Listed]:
    """List the documents of a JSONL stream, one a line; blank lines are skipped, a bad line is an error."""
    number = 0
    try:
        while line := stream.readline(limits.body_bytes + 1):
            number += 1
            if len(line) > limits.body_bytes:
                yield _too_long(stream, uri, number, source, limits)
            elif stripped := line.strip():
                yield _row(stripped, f"{uri}:{number}", uri, source)
    except (OSError, EOFError, zlib.error) as error:
        yield SourceError(f"{uri}:{number + 1}", Reason.MALFORMED, f"the stream breaks off here: {error}", source)


def file_digest(path: Path) -> str:
    """128 bits of blake3 over the file's bytes, hex."""
    hasher = blake3()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            hasher.update(block)
    return str(hasher.hexdigest())[:DIGEST_CHARS]


def _row(line: bytes, place: str, uri: str, source: str) -> Listed:
    try:
        row = decode_row(line)
        return SourceItem(uri, row.key, source, len(line), bytes_digest(line), "row", line, parse_time(row.updated_at))
    except ParseFailure as failure:
        return SourceError(place, failure.reason, failure.message, source)


def _too_long(stream: BinaryIO, uri: str, number: int, source: str, limits: Limits) -> SourceError:
    while (rest := stream.readline(BLOCK_BYTES)) and not rest.endswith(b"\n"):
        pass
    return SourceError(
        f"{uri}:{number}", Reason.TOO_LARGE, f"the line is longer than {limits.body_bytes} bytes", source
    )


def _walk(root: Path) -> Iterator[Path]:
    """Files below `root`, sorted by name; hidden folders of tools are left out."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _SKIPPED_FOLDERS)
        for name in sorted(files):
            yield Path(folder, name)


def _local_files(spec: str) -> tuple[Iterable[Path], Path, str]:
    """(files, root, name of the source) of a path or pattern."""
    path = Path(spec).expanduser()
    if path.is_dir():
        return _walk(path.resolve()), path.resolve(), str(path.resolve())
    if path.is_file():
        return [path.resolve()], path.resolve().parent, str(path.resolve())
    if not glob.has_magic(spec):
        raise InvalidInput.field("/sources", f"no file or folder {spec!r} here; check the path")
    parts = path.parts
    fixed = list(_until_magic(parts))
    root, pattern = Path(*fixed).resolve(), str(PurePosixPath(*parts[len(fixed) :]))
    if not root.is_dir():
        raise InvalidInput.field("/sources", f"no folder {str(root)!r} for the pattern {spec!r}; check the path")
    return sorted(found for found in root.glob(pattern) if not found.is_dir()), root, str(root / pattern)


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _list_file(path: Path, name: str, root: Path, source: str, limits: Limits, sandbox: Sandbox) -> Iterator[Listed]:
    target = Path(os.path.realpath(path, strict=True))  # unlike Path.resolve, a loop of links is an OSError
    if not target.is_relative_to(root):
        raise ParseFailure(Reason.OUTSIDE_ROOT, "the link leaves the source root; copy the file into it")
    state = target.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ParseFailure(Reason.UNSUPPORTED, "this is no regular file")
    if name.lower().endswith(ROW_SUFFIXES):
        rows = SourceItem(str(target), name, source, state.st_size, None, "file")
        yield from list_rows_file(target, name.lower().endswith(".gz"), rows, limits)
        return
    changed = datetime.fromtimestamp(int(state.st_mtime), UTC)
    yield from list_stored(
        target, SourceItem(str(target), name, source, state.st_size, None, "file", None, changed), limits, sandbox
    )


def list_stored(path: Path, item: SourceItem, limits: Limits, sandbox: Sandbox) -> Iterator[Listed]:
    """The documents in the file at `path`, which `item` describes: itself, or the members of an archive."""
    if item.size > limits.file_bytes:
        raise ParseFailure(Reason.TOO_LARGE, f"the file has {item.size} bytes, {limits.file_bytes} are allowed")
    checked_id(item.document_id)
    with path.open("rb") as stream:
        head = stream.read(4)
    if head in ZIP_MAGIC and not item.document_id.lower().endswith(PACKAGE_SUFFIXES):
        kind, members = sandbox.list_archive(str(path))
        if kind == "archive":
            for member in members:
                yield from _list_member(path, item, member, limits, sandbox)
            return
    yield replace(item, digest=item.digest or file_digest(path))


def _list_member(path: Path, item: SourceItem, member: Member, limits: Limits, sandbox: Sandbox) -> Iterator[Listed]:
    inner, size, digest, reason, message = member
    name = f"{item.document_id}/{inner.replace(MEMBER, '/')}"
    uri = f"{item.uri}{MEMBER}{inner}"
    if reason:
        yield SourceError(name, Reason(reason), message, item.source)
    elif inner.lower().endswith(ROW_SUFFIXES):
        data = io.BytesIO(sandbox.extract(str(path), inner.split(MEMBER)))
        stream = gzip.GzipFile(fileobj=data) if inner.lower().endswith(".gz") else data
        yield from list_rows(cast("BinaryIO", stream), uri, item.source, limits)
    else:
        try:
            identity = checked_id(name)
        except ParseFailure as failure:
            yield SourceError(name, failure.reason, failure.message, item.source)
            return
        yield SourceItem(uri, identity, item.source, size, digest, "member", None, item.updated_at)


def list_rows_file(path: Path, packed: bool, item: SourceItem, limits: Limits) -> Iterator[Listed]:
    """The documents in the JSONL file at `path`, gzipped if `packed`; `item` describes the file."""
    with cast("BinaryIO", gzip.open(path, "rb") if packed else path.open("rb")) as stream:
        yield from list_rows(stream, item.uri, item.source, limits)


def _relative(path: Path, root: Path) -> str:
    """The path below `root`, posix and NFC; bytes that are no UTF-8 are shown as U+FFFD."""
    name = os.path.relpath(path, root)
    return unicodedata.normalize(
        "NFC", Path(name).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    )
