"""What a format's reader returns: text, its spans and what the file says about itself. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobs.indexing.clean import clean
from jobs.indexing.reasons import ParseFailure, Reason

MAX_TITLE_CHARS = 500
_WHITESPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Span:
    """text[start:end]; `page` counts from 1, `t_start_s` in seconds, `heading` names the unit."""

    start: int
    end: int
    page: int | None = None
    t_start_s: float | None = None
    heading: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """One document; `text` is clean (`clean.clean`), spans are in order and do not overlap."""

    text: str
    format: str
    title: str = ""
    spans: tuple[Span, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    url: str | None = None
    updated_at: datetime | None = None
    language: str = ""


class Assembler:
    """Builds a text from parts and remembers where each one lies; parts are cleaned before they are counted."""

    def __init__(self, max_chars: int, separator: str = "\n\n") -> None:
        self._parts: list[str] = []
        self._spans: list[Span] = []
        self._length = 0
        self._max_chars = max_chars
        self._separator = separator

    def add(
        self, part: str, *, page: int | None = None, t_start_s: float | None = None, heading: str | None = None
    ) -> None:
        """Append a part; a blank one leaves no trace. Raises `ParseFailure` (`too_large`)."""
        body = clean(part).strip("\n")
        if not body or body.isspace():
            return
        if self._parts:
            self._parts.append(self._separator)
            self._length += len(self._separator)
        start = self._length
        self._length += len(body)
        if self._length > self._max_chars:
            raise ParseFailure(Reason.TOO_LARGE, f"the file holds more than {self._max_chars} characters of text")
        self._parts.append(body)
        if page is not None or t_start_s is not None or heading:
            self._spans.append(Span(start, self._length, page, t_start_s, one_line(heading or "") or None))

    @property
    def text(self) -> str:
        """Everything added so far."""
        return "".join(self._parts)

    @property
    def spans(self) -> tuple[Span, ...]:
        """One span for each part that named a page, a time or a heading."""
        return tuple(self._spans)


def one_line(raw: str, limit: int = MAX_TITLE_CHARS) -> str:
    """`raw` cleaned, on one line, at most `limit` characters: for titles and headings."""
    return _WHITESPACE.sub(" ", clean(raw[: 4 * limit])).strip()[:limit]
