"""Which format a file has: by its first bytes, then by its name, then by how its text looks. Pure.

The bytes win: a `.txt` that begins with %PDF- is a PDF. A name only decides between formats that are all text.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

HEAD_BYTES = 4_096

_MAGIC = (
    (b"%PDF-", "pdf"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
)
_BINARY = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"\x7fELF",
    b"MZ\x90",
    b"RIFF",
    b"OggS",
    b"ID3",
    b"7z\xbc\xaf",
    b"Rar!",
)
_CODE = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript",
    ".jsx": "javascript",
    ".ts": "typescript", ".tsx": "typescript", ".java": "java", ".go": "go", ".rs": "rust", ".rb": "ruby", ".c": "c",
    ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".hpp": "cpp", ".cs": "csharp", ".php": "php", ".swift": "swift",
    ".kt": "kotlin", ".scala": "scala", ".sh": "bash", ".bash": "bash", ".sql": "sql", ".r": "r", ".lua": "lua",
    ".jl": "julia", ".pl": "perl", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".css": "css",
    ".proto": "protobuf", ".tf": "hcl", ".cu": "cuda",
}  # fmt: skip
_TEXT = {
    ".md": "markdown", ".markdown": "markdown", ".mdx": "markdown", ".rst": "rst", ".txt": "text", ".text": "text",
    ".log": "text",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".csv": "csv", ".tsv": "csv", ".eml": "mail", ".srt": "srt",
    ".vtt": "vtt",
}  # fmt: skip
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")
_MAIL = re.compile(
    rb"^(?:(?:From|To|Subject|Date|Received|Return-Path|Message-ID|MIME-Version|Delivered-To): )", re.IGNORECASE
)
_SRT = re.compile(rb"^\s*\d+\s*\r?\n\d\d:\d\d:\d\d[,.]\d{3} --> ")
_PYTHON = re.compile(rb"^#!.*\bpython")


def detect(name: str, head: bytes) -> str:
    """The format of a file by its name and its first `HEAD_BYTES`.

    One of `pdf zip gzip ole binary html mail srt vtt csv markdown rst text code:<language>`. A zip is told apart
    by its members later (DOCX, PPTX, XLSX, EPUB or an archive).
    """
    start = head.removeprefix(b"\xef\xbb\xbf")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if b"%PDF-" in head[:1024] and name.lower().endswith(".pdf"):
        return "pdf"
    if head.startswith(_BINARY):
        return "binary"
    suffix = PurePosixPath(name.lower()).suffix
    if suffix in _CODE:
        return f"code:{_CODE[suffix]}"
    return _TEXT.get(suffix) or _by_look(start)


def _by_look(head: bytes) -> str:
    if head.startswith(b"WEBVTT"):
        return "vtt"
    if _uncommented(head).startswith(_HTML):
        return "html"
    for pattern, kind in ((_SRT, "srt"), (_PYTHON, "code:python"), (_MAIL, "mail")):
        if pattern.match(head):
            return kind
    return "text"


def _uncommented(head: bytes) -> bytes:
    """What follows the comments at the start, in lower case. No regular expression: nested repeats explode."""
    rest = head.lstrip().lower()
    while rest.startswith(b"<!--"):
        rest = rest.partition(b"-->")[2].lstrip()
    return rest
