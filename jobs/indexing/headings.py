"""Which headings stand above a character of a document. Pure; no Markdown parser, one pass over the lines.

`heading_marks` gives (offset of the heading's line, path of headings down to it); `path_at` looks one up.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

SEPARATOR = " > "
MAX_HEADING_CHARS = 200

Marks = tuple[list[int], list[str]]

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]|$)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_RST_RULE = re.compile(r"([!-/:-@\[-`{-~])\1{2,}[ \t]*$")
_LINK = re.compile(r"!?\[([^\]\[]*)\]\([^()\s]*(?:\s[^()]*)?\)")
_DECORATION = re.compile(r"[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}")


def heading_marks(text: str, kind: str) -> Marks:
    """Offsets and paths of the headings of `text`; `kind` is `markdown` or `rst`, others have none."""
    found = _markdown(text) if kind == "markdown" else _rst(text) if kind == "rst" else iter(())
    return _paths(found)


def span_marks(spans: list[dict[str, Any]]) -> Marks:
    """The same from the spans that a parser left (sheets, slides, chapters)."""
    named = [(span["start"], span["heading"]) for span in spans if span.get("heading")]
    return [start for start, _ in named], [heading for _, heading in named]


def path_at(marks: Marks, offset: int) -> str:
    """The headings above `offset`, a heading on the same line included; "" before the first."""
    starts, paths = marks
    place = bisect_right(starts, offset) - 1
    return paths[place] if place >= 0 else ""


def _paths(found: Iterator[tuple[int, int, str]]) -> Marks:
    starts: list[int] = []
    paths: list[str] = []
    stack: list[tuple[int, str]] = []
    for offset, level, title in found:
        while stack and stack[-1][0] >= level:
            stack.pop()
        stack.append((level, title[:MAX_HEADING_CHARS]))
        starts.append(offset)
        paths.append(SEPARATOR.join(name for _, name in stack if name))
    return starts, paths


def _lines(text: str) -> Iterator[tuple[int, str]]:
    offset = 0
    for line in text.split("\n"):
        yield offset, line
        offset += len(line) + 1


def _markdown(text: str) -> Iterator[tuple[int, int, str]]:
    fence = ""
    before, before_offset = "", 0
    for offset, line in _lines(text):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip(" \t" + fence[0]):
                fence = ""
        elif mark:
            fence = mark[1]
        elif atx := _ATX.match(line):
            yield offset, len(atx[1]), _plain(line[atx.end() :].strip().rstrip("#"))
        elif (under := _SETEXT.match(line)) and _can_be_heading(before):
            yield before_offset, 1 if under[1][0] == "=" else 2, _plain(before)
        before, before_offset = "" if fence or mark else line, offset


def _can_be_heading(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("    ") and line.lstrip()[0] not in "-*+>|#="


def _plain(title: str) -> str:
    title = title[: 4 * MAX_HEADING_CHARS]
    return _DECORATION.sub("", _LINK.sub(r"\1", title)).strip()


def _rst(text: str) -> Iterator[tuple[int, int, str]]:
    """A title is a line with a rule below as long as itself; each new rule character is one level deeper."""
    levels: dict[str, int] = {}
    above, before, before_offset = "", "", 0
    for offset, line in _lines(text):
        title = before.strip()
        if title and _RST_RULE.match(line) and not _RST_RULE.match(before) and len(line.rstrip()) >= len(title):
            style = line[0] + ("^" if above.strip() == line.strip() else "")
            yield before_offset, levels.setdefault(style, len(levels) + 1), title
            line = ""  # the rule is used up and is no overline of the next title
        above, before, before_offset = before, line, offset
