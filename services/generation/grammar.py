r"""What a generator may write, and how it is read back while it is being written. Pure.

    answer = "NONE" | line+
    line   = text marker{1,3} "\n"       text holds no bracket and no line break
    marker = "[" number of a shown passage "]"

An engine that takes a regular expression is held to it token by token, whatever its weights. One that does not is
read with the same eyes: what has another form never leaves `LineReader`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

NOTHING = "NONE"  # what the model writes when the evidence does not answer
MARKERS = 3  # of one line at most
LINE_CHARS = 2_000  # a longer line is no sentence: it is dropped

_NEVER = r"\[\]\x00-\x1f\x7f"  # no bracket, no control character
_NOT_FIRST = _NEVER + " \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # a line of spaces says nothing
_CITED = re.compile(r"^(?P<text>[^\[\]]*[^\[\]\s])\s*(?P<markers>(?:\[\d{1,3}\]){1,8})\s*[.!?]?\s*$")


@dataclass(frozen=True, slots=True)
class Line:
    """One written sentence; `markers` are numbers of shown passages, each once, at least one."""

    text: str
    markers: tuple[int, ...]


def pattern(shown: int) -> str:
    """The regular expression of a whole answer over passages 1 … `shown` (at least one)."""
    numbers = "|".join(str(number) for number in range(1, shown + 1))
    line = rf"[^{_NOT_FIRST}][^{_NEVER}]*(\[({numbers})\]){{1,{MARKERS}}}\n"
    return f"({NOTHING}|({line})+)"


class LineReader:
    """Text in pieces of any size, lines out as soon as they end. `malformed` counts what had another form."""

    def __init__(self, shown: int) -> None:
        self._shown = shown
        self._open = ""
        self._said_nothing = False
        self.malformed = 0

    @property
    def declined(self) -> bool:
        """Whether the model said that the evidence does not answer."""
        return self._said_nothing

    def feed(self, text: str) -> Iterator[Line]:
        """The lines that end within `text`."""
        *ended, self._open = (self._open + text).split("\n")
        for line in ended:
            yield from self._read(line)

    def rest(self) -> Iterator[Line]:
        """What stands after the last line break: a line when it ends with a marker, else the stump of one."""
        last, self._open = self._open, ""
        yield from self._read(last)

    def _read(self, raw: str) -> Iterator[Line]:
        stripped = raw.strip()
        if not stripped:
            return
        if stripped.rstrip(".") == NOTHING:
            self._said_nothing = True
            return
        line = parse(stripped, self._shown)
        if line is None:
            self.malformed += 1
        else:
            yield line


def parse(line: str, shown: int) -> Line | None:
    """A line of the grammar, or None: no text, no marker at its end, or a marker of a passage that was not shown."""
    found = _CITED.match(line) if len(line) <= LINE_CHARS else None
    if found is None:
        return None
    markers = tuple(dict.fromkeys(int(number) for number in re.findall(r"\d+", found["markers"])))
    if len(markers) > MARKERS or not all(1 <= number <= shown for number in markers):
        return None
    return Line(found["text"].strip(), markers)
