"""Markdown, reStructuredText, plain text and source code: formats whose text is the file itself. Pure."""

from __future__ import annotations

import re
from typing import Any

import yaml

from jobs.indexing.clean import clean, decode
from jobs.indexing.formats.document import Parsed, one_line
from jobs.indexing.headings import heading_marks
from jobs.indexing.reasons import ParseFailure, Reason

_FRONT_MATTER = re.compile(r"---\n(.{0,4000}?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


def read_plain(data: bytes, kind: str, name: str, max_chars: int) -> Parsed:
    """Read a text format. Raises `ParseFailure`: `encoding`, `unsupported` (binary), `empty`, `too_large`."""
    text = clean(decode(data))
    if len(text) > max_chars:
        raise ParseFailure(Reason.TOO_LARGE, f"the file holds more than {max_chars} characters of text")
    metadata: dict[str, Any] = {}
    if kind == "markdown":
        text, metadata = _front_matter(_COMMENT.sub("", text))
    if not text or text.isspace():
        raise ParseFailure(Reason.EMPTY, "the file has no text")
    return Parsed(text, kind, one_line(str(metadata.get("title") or _title(text, kind, name))), metadata=metadata)


def _title(text: str, kind: str, name: str) -> str:
    """The first heading or docstring line, else the file's name."""
    if kind in ("markdown", "rst"):
        marks = heading_marks(text[:20_000], kind)
        return next((path for path in marks[1] if path), name)
    if kind == "code:python" and (summary := _docstring(text[:8_000])):
        return f"{name}: {summary}"
    return name


def _docstring(source: str) -> str:
    """The first line of a module's docstring, "" without one."""
    lines = (line.strip() for line in source.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "").lstrip("rRuU")
    if not first.startswith(('"""', "'''")):
        return ""
    return (first[3:].strip() or next(lines, "")).removesuffix(first[:3]).strip()


def _front_matter(text: str) -> tuple[str, dict[str, Any]]:
    """Split YAML front matter off; what is no mapping of plain values stays text."""
    match = _FRONT_MATTER.match(text)
    # An anchor can unfold to gigabytes, and brackets nest for as long as the reader has stack.
    if not match or "&" in match[1] or max(match[1].count("["), match[1].count("{")) > 64:
        return text, {}
    try:
        loaded = yaml.load(match[1], Loader=yaml.BaseLoader)  # noqa: S506  # builds only str, list and dict
    except (yaml.YAMLError, RecursionError, ValueError):
        return text, {}
    if not isinstance(loaded, dict):
        return text, {}
    plain = {str(key)[:100]: value for key, value in loaded.items() if isinstance(value, str) or _flat(value)}
    return text[match.end() :], plain


def _flat(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
