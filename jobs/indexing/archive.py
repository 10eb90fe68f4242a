"""Zip and gzip inside limits: unpacked bytes, ratio, members, nesting. Runs in the confined child.

Sizes that an archive claims are not believed; what is unpacked is counted while it is unpacked.
"""

from __future__ import annotations

import gzip
import io
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from jobs.indexing.reasons import ParseFailure, Reason
from services.settings import Limits

BLOCK_BYTES = 1 << 20
FREE_BYTES = 1 << 20  # below this size a ratio means nothing
MEMBER = "!/"

DOCUMENT_MEMBERS = {
    "word/document.xml": "docx",
    "ppt/presentation.xml": "pptx",
    "xl/workbook.xml": "xlsx",
    "META-INF/container.xml": "epub",
}
_BAD_ZIP = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
)


class Archive:
    """An opened zip whose members can be read until `limits` are used up."""

    def __init__(self, data: bytes, limits: Limits, budget: Budget | None = None) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _BAD_ZIP as error:
            raise ParseFailure(Reason.MALFORMED, f"the archive cannot be opened: {error}") from None
        self._infos = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        if len(self._zip.infolist()) > limits.archive_members:
            raise ParseFailure(Reason.TOO_MANY_MEMBERS, f"the archive has more than {limits.archive_members} members")
        self._size = len(data)
        self._limits = limits
        self._budget = budget or Budget(len(data), limits)

    def renewed(self) -> Archive:
        """The same archive with its whole budget again."""
        self._budget = Budget(self._size, self._limits)
        return self

    def names(self) -> list[str]:
        """Names of the members that are files, sorted."""
        return sorted(self._infos)

    def kind(self) -> str:
        """`docx`, `pptx`, `xlsx`, `epub` or `archive`."""
        return next((kind for name, kind in DOCUMENT_MEMBERS.items() if name in self._infos), "archive")

    def read(self, name: str) -> bytes:
        """The member's bytes. Raises `ParseFailure`: `malformed`, `encrypted`, `zip_bomb`, `too_large`."""
        info = self._infos.get(name)
        if info is None:
            raise ParseFailure(Reason.MALFORMED, f"the archive has no member {name!r}")
        if info.flag_bits & 1:
            raise ParseFailure(Reason.ENCRYPTED, "the file is encrypted; remove the password")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ParseFailure(Reason.OUTSIDE_ROOT, "the member is a symbolic link")
        try:
            with self._zip.open(info) as stream:
                return self._budget.drain(stream)
        except _BAD_ZIP as error:
            raise ParseFailure(Reason.MALFORMED, f"the member {name!r} is damaged: {error}") from None
        except RuntimeError as error:
            raise ParseFailure(Reason.ENCRYPTED, f"the member {name!r} cannot be read: {error}") from None

    def has(self, name: str) -> bool:
        """Whether a member of this name exists."""
        return name in self._infos

    def nested(self, data: bytes, limits: Limits) -> Archive:
        """The archive in a member's bytes; what it unpacks counts against the same budget."""
        return Archive(data, limits, self._budget)


class Budget:
    """How many bytes may still be unpacked from one file; shared by the archives nested in it."""

    def __init__(self, packed: int, limits: Limits) -> None:
        self._limits = limits
        self._packed = max(packed, 1)
        self._unpacked = 0

    def drain(self, stream: IO[bytes]) -> bytes:
        """Read `stream` to its end, at most one file's worth. Raises `ParseFailure`: `zip_bomb`, `too_large`."""
        blocks: list[bytes] = []
        size = 0
        while block := stream.read(BLOCK_BYTES):
            blocks.append(block)
            size += len(block)
            self._spend(len(block))
            if size > self._limits.file_bytes:
                raise ParseFailure(Reason.TOO_LARGE, f"unpacked, the file is above {self._limits.file_bytes} bytes")
        return b"".join(blocks)

    def _spend(self, size: int) -> None:
        self._unpacked += size
        ratio = self._unpacked / self._packed
        if self._unpacked > FREE_BYTES and ratio > self._limits.unpack_ratio:
            raise ParseFailure(Reason.ZIP_BOMB, f"the file unpacks to over {self._limits.unpack_ratio} times its size")
        if self._unpacked > self._limits.unpacked_bytes:
            raise ParseFailure(Reason.TOO_LARGE, f"the file unpacks to over {self._limits.unpacked_bytes} bytes")


def gunzip(data: bytes, limits: Limits) -> bytes:
    """The bytes in a gzip file, all its members. Raises `ParseFailure`: `malformed`, `zip_bomb`, `too_large`."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            return Budget(len(data), limits).drain(stream)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:
        raise ParseFailure(Reason.MALFORMED, f"the gzip file is damaged: {error}") from None


def walk(
    archive: Archive, limits: Limits, depth: int = 1, prefix: str = ""
) -> Iterator[tuple[str, bytes | ParseFailure]]:
    """Every file in `archive` and in archives inside it as (path with `!/` between levels, bytes or failure)."""
    for name in archive.names():
        try:
            safe_name(name)
            data = archive.read(name)
        except ParseFailure as failure:
            yield prefix + name, failure
            if failure.reason in (Reason.ZIP_BOMB, Reason.TOO_LARGE):
                return
            continue
        inner = _inner(archive, data, limits)
        if inner is None:
            yield prefix + name, data
        elif isinstance(inner, ParseFailure):
            yield prefix + name, inner
        elif depth >= limits.archive_nesting:
            yield prefix + name, ParseFailure(Reason.NESTED_TOO_DEEP, "an archive lies in too many others")
        else:
            yield from walk(inner, limits, depth + 1, prefix + name + MEMBER)


def _inner(archive: Archive, data: bytes, limits: Limits) -> Archive | ParseFailure | None:
    if not data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return None
    try:
        inner = archive.nested(data, limits)
    except ParseFailure as failure:
        return failure
    return inner if inner.kind() == "archive" else None


def safe_name(name: str) -> str:
    """The member's name, NFC. Raises `ParseFailure` (`outside_root`) for one that would leave the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")) or "\x00" in name:
        raise ParseFailure(Reason.OUTSIDE_ROOT, "the member's name leaves the archive")
    return unicodedata.normalize("NFC", path.as_posix())
