"""Lists files, folders, globs of this machine and the lines of JSONL streams. Holds one line or block at a time."""

from __future__ import annotations

import glob
import gzip
import os
import stat
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from blake3 import blake3

from jobs.indexing.items import Listed, SourceError, SourceItem, checked_id
from jobs.indexing.reasons import ParseFailure, Reason
from jobs.indexing.rows import decode_row, parse_time
from services.settings import Limits
from tenants.errors import InvalidInput
from tenants.ids import DIGEST_CHARS, bytes_digest

BLOCK_BYTES = 1 << 20
ROW_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv"})


def list_local(spec: str, limits: Limits) -> Iterator[Listed]:
    """List a path, folder or glob of this machine in sorted order.

    The source root is the folder, a file's parent, or a glob's fixed part. Raises `InvalidInput` when the
    path does not exist.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        root = path.resolve()
        yield from _list_files(_walk(root), root, str(root), limits)
    elif path.is_file():
        root = path.resolve().parent
        yield from _list_files([path.resolve()], root, str(path.resolve()), limits)
    elif glob.has_magic(spec):
        yield from _list_glob(spec, limits)
    else:
        raise InvalidInput.field("/sources", f"no file or folder {spec!r} here; check the path")


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


def _list_glob(spec: str, limits: Limits) -> Iterator[Listed]:
    fixed = list(_until_magic(PurePosixPath(spec).parts))
    root = Path(*fixed).expanduser().resolve() if fixed else Path.cwd()
    if not root.is_dir():
        raise InvalidInput.field("/sources", f"no folder {str(root)!r} for the pattern {spec!r}; check the path")
    pattern = str(PurePosixPath(*PurePosixPath(spec).parts[len(fixed) :]))
    files = sorted(path for path in root.glob(pattern) if not path.is_dir())
    yield from _list_files(files, root, str(root / pattern), limits)


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _list_files(files: Iterable[Path], root: Path, source: str, limits: Limits) -> Iterator[Listed]:
    for path in files:
        name = _relative(path, root)
        try:
            yield from _list_file(path, name, root, source, limits)
        except ParseFailure as failure:
            yield SourceError(name, failure.reason, failure.message, source)
        except OSError as error:
            yield SourceError(name, Reason.UNREADABLE, f"the file cannot be read: {error.strerror or error}", source)


def _list_file(path: Path, name: str, root: Path, source: str, limits: Limits) -> Iterator[Listed]:
    target = path.resolve(strict=True)
    if not target.is_relative_to(root):
        raise ParseFailure(Reason.OUTSIDE_ROOT, "the link leaves the source root; copy the file into it")
    state = target.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ParseFailure(Reason.UNSUPPORTED, "this is no regular file")
    if name.lower().endswith(ROW_SUFFIXES):
        with _open_rows(target) as stream:
            yield from list_rows(stream, str(target), source, limits)
        return
    if state.st_size > limits.file_bytes:
        raise ParseFailure(Reason.TOO_LARGE, f"the file has {state.st_size} bytes, {limits.file_bytes} are allowed")
    changed = datetime.fromtimestamp(int(state.st_mtime), UTC)
    identity = checked_id(name)
    yield SourceItem(str(target), identity, source, state.st_size, file_digest(target), "file", updated_at=changed)


def _open_rows(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]  # GzipFile reads like a BinaryIO
    return path.open("rb")


def _relative(path: Path, root: Path) -> str:
    """The path below `root`, posix and NFC; bytes that are no UTF-8 are shown as U+FFFD."""
    name = os.path.relpath(path, root)
    return unicodedata.normalize(
        "NFC", Path(name).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    )
