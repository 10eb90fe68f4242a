"""One file's bytes → `Parsed`: asks `detect` and hands over to the format's reader. Runs in the confined child."""

from __future__ import annotations

from collections.abc import Callable

from jobs.indexing.archive import Archive, gunzip
from jobs.indexing.formats.detect import HEAD_BYTES, detect
from jobs.indexing.formats.document import Parsed
from jobs.indexing.formats.epub import read_epub
from jobs.indexing.formats.html import read_html
from jobs.indexing.formats.mail import read_mail
from jobs.indexing.formats.office import read_docx, read_pptx
from jobs.indexing.formats.pdf import read_pdf
from jobs.indexing.formats.plain import read_plain
from jobs.indexing.formats.sheets import read_csv, read_xlsx
from jobs.indexing.formats.transcript import read_transcript
from jobs.indexing.reasons import ParseFailure, Reason
from services.settings import Limits

_PACKAGES: dict[str, Callable[[Archive, str, int], Parsed]] = {
    "docx": read_docx,
    "pptx": read_pptx,
    "xlsx": read_xlsx,
    "epub": read_epub,
}
_FILES: dict[str, Callable[[bytes, str, int], Parsed]] = {
    "pdf": read_pdf,
    "html": read_html,
    "mail": read_mail,
    "csv": read_csv,
    "srt": read_transcript,
    "vtt": read_transcript,
}
_ENCRYPTED_OFFICE = "EncryptedPackage".encode("utf-16-le")


def read(data: bytes, name: str, limits: Limits, max_chars: int) -> Parsed:
    """Read a file by its content. `name` is its last path part. Raises `ParseFailure`."""
    kind = detect(name, data[:HEAD_BYTES])
    if kind == "gzip":
        return _read_gzip(data, name, limits, max_chars)
    if not data.strip():
        raise ParseFailure(Reason.EMPTY, "the file is empty")
    if kind == "zip":
        return _read_package(data, name, limits, max_chars)
    if kind in _FILES:
        return _FILES[kind](data, name, max_chars)
    if kind == "ole":
        _refuse_ole(data)
    if kind == "binary":
        raise ParseFailure(Reason.UNSUPPORTED, "the file is an image, sound, program or other binary without text")
    return read_plain(data, kind, name, max_chars)


def _read_gzip(data: bytes, name: str, limits: Limits, max_chars: int) -> Parsed:
    inner = gunzip(data, limits)
    if detect(name, inner[:HEAD_BYTES]) == "gzip":
        raise ParseFailure(Reason.NESTED_TOO_DEEP, "the file is compressed twice; unpack it once")
    if inner[257:262] == b"ustar":
        raise ParseFailure(Reason.UNSUPPORTED, "tar archives are not read; give the unpacked folder or a zip")
    return read(inner, name.removesuffix(".gz") or name, limits, max_chars)


def _read_package(data: bytes, name: str, limits: Limits, max_chars: int) -> Parsed:
    archive = Archive(data, limits)
    reader = _PACKAGES.get(archive.kind())
    if reader is None:
        raise ParseFailure(Reason.UNSUPPORTED, "the zip is no DOCX, PPTX, XLSX or EPUB")
    return reader(archive, name, max_chars)


def _refuse_ole(data: bytes) -> None:
    if _ENCRYPTED_OFFICE in data:
        raise ParseFailure(Reason.ENCRYPTED, "the document is encrypted; remove the password")
    raise ParseFailure(Reason.UNSUPPORTED, "an Office file from before 2007; save it as DOCX, PPTX or XLSX")
