"""Where the sentences of a passage are: spans, never copies, so that a quote is verbatim. Pure.

Knows prose, lists, headings, tables, fenced and bare code, and CJK full stops. A span holds no surrounding
white space, list bullet or trailing reference mark such as `[3]`. A splitter by rule, not a parser: where it is
unsure (an initial, an abbreviation) it does not cut, since half a sentence misleads and two do not. Texts are the
tenants': every pattern here takes time linear in the text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["sentence", "item", "heading", "row", "code"]

_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+\S")
_ITEM = re.compile(r"\s*(?:[-*+•‣◦]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+(?=\S)")
_QUOTE = re.compile(r"\s*>\s?")
_ROW = re.compile(r"\s*\|.*\|\s*$|\S[^|]*\s\|\s[^|]*\S.*")
_CODE = re.compile(
    r"\s*(?:def |class |import |from \w[\w.]* import |return\b|raise |assert |@\w|async |await |#include)"
    r"|\s*(?:>>> |\.\.\. |\$ )"
    r"|\s*(?:if|elif|for|while|with|try|except|else|finally)\b.*:\s*$"
    r"|.*[;{}]\s*$|\s*[\w.\[\]\"']+\s*[-+*/|&]?=\s*\S|\s*[\w.]+\(.*\)?[,:]?\s*$|\s*[)\]}]+[,;:]?\s*$"
)
_STOP = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+(?:\[[\w, -]{1,12}\])*+(?=\s)|[。！？｡]+[」』）”’)\]]*"  # never gives back
)
_NEXT = re.compile(r"\s+(?:[-*•]\s+)?[\"'“‘(\[]*(?:[^\W\d_]|\d|[¿¡$€£#<`\\])")
_REFERENCE = re.compile(r"\[(?:\d{1,3}|note \d+|[a-z])\]")
_REFERENCE_CHARS = 16  # the longest of them that is looked for
_BEFORE_WORD = re.compile(r"[\s\"'“‘(\[]")
_WORD_CHARS = 32  # more than any abbreviation has
_BULLET = re.compile(r"(?:[-*•]\s+|\d{1,3}[.)]\s+)")
_ABBREVIATIONS = """
    dr mr mrs ms prof st sr jr gen col sgt capt lt maj cmdr adm rev hon gov sen rep messrs mt ft vs cf ca approx
    e.g i.e viz fig figs eq eqs sec ch vol pp ed eds al resp incl est dept univ
"""
_ALWAYS_INSIDE = frozenset(_ABBREVIATIONS.split())
_BEFORE_NUMBERS = "no nos p art § jan feb mar apr jun jul aug sep sept oct nov dec"
_INSIDE_BEFORE_DIGIT = frozenset(_BEFORE_NUMBERS.split())
_DOCSTRING_QUOTES = ('"""', "'''")
_SHORT_LINE_CHARS = 60
_MAX_LINE_SHARE = 0.45  # more code-like lines than this and a paragraph is code


@dataclass(frozen=True, slots=True)
class Unit:
    """`text[start:end]` says one thing."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    end: int  # without the newline
    text: str


def split(text: str) -> list[Unit]:
    """The units of `text` in order; they do not overlap."""
    code = _is_code([line.text for line in _lines(text) if line.text.strip()])
    units: list[Unit] = []
    for kind, start, end in _blocks(text, code):
        spans = _prose(text, start, end) if kind in ("sentence", "item") else [(start, end)]
        units.extend(_trimmed(text, span, kind) for span in spans)
    return [unit for unit in units if any(char.isalnum() for char in text[unit.start : unit.end])]


def _blocks(text: str, code: bool) -> Iterator[tuple[Kind, int, int]]:
    """Runs of lines of one kind; a blank line, a change of kind, an item and a heading end a run."""
    run: list[_Line] = []
    fence: str | None = None
    for line in _lines(text):
        mark = _FENCE.match(line.text)
        if fence is not None or mark:
            if fence is None:
                yield from _run(run, code)
                run, fence = [], mark.group(1) if mark else None
                continue
            if mark and mark.group(1) == fence:
                yield from _fenced(run)
                run, fence = [], None
                continue
            run.append(line)
            continue
        if _starts_block(line.text, run, code):
            yield from _run(run, code)
            run = []
        if line.text.strip() and not _is_rule(line.text):
            run.append(line)
    yield from _fenced(run) if fence is not None else _run(run, code)


def _starts_block(line: str, run: list[_Line], code: bool) -> bool:
    if not line.strip() or _is_rule(line) or not run:
        return True
    before = run[-1].text
    if code:
        return False
    if _HEADING.match(line) or _HEADING.match(before) or _ITEM.match(line) or _ROW.fullmatch(line):
        return True
    if _ROW.fullmatch(before):
        return True
    short = len(before.strip()) < _SHORT_LINE_CHARS and before.rstrip()[-1:] not in ",;-"
    return short and (line.strip()[:1].isupper() or line.strip()[:1].isdigit())


def _is_rule(line: str) -> bool:
    """A line that only separates: a thematic break, a table's second row, a docstring's quotes."""
    marks = "".join(line.split())
    if marks in _DOCSTRING_QUOTES or (len(marks) >= 3 and not marks.strip("-=_*~^")):
        return True
    return line.rfind("|") >= 1 and not marks.strip(":|-")


def _run(run: list[_Line], code: bool) -> Iterator[tuple[Kind, int, int]]:
    if not run:
        return
    start, end, first = run[0].start, run[-1].end, run[0].text
    if not code and _HEADING.match(first):
        yield "heading", start + len(first) - len(first.lstrip("# ")), end
    elif _is_code([line.text for line in run]):
        yield "code", start, end
    elif not code and _ROW.fullmatch(first):
        yield "row", start, end
    elif match := _ITEM.match(first):
        yield "item", start + match.end(), end
    elif match := _QUOTE.match(first):
        yield "sentence", start + match.end(), end
    else:
        yield "sentence", start, end


def _fenced(run: list[_Line]) -> Iterator[tuple[Kind, int, int]]:
    if run:
        yield "code", run[0].start, run[-1].end


def _is_code(lines: list[str]) -> bool:
    return bool(lines) and sum(bool(_CODE.match(line)) for line in lines) > _MAX_LINE_SHARE * len(lines)


def _lines(text: str) -> Iterator[_Line]:
    start = 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029")
        yield _Line(start, start + len(bare), bare)
        start += len(line)


def _prose(text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    begin = start
    for stop in _STOP.finditer(text, start, end):
        if _ends_sentence(text, begin, stop, end):
            spans.append((begin, stop.end()))
            begin = stop.end()
    if begin < end:
        spans.append((begin, end))
    return spans


def _ends_sentence(text: str, begin: int, stop: re.Match[str], end: int) -> bool:
    if stop.group()[0] in "。！？｡":
        return True
    following = _NEXT.match(text, stop.end(), end)
    if following is None or text[following.end() - 1].islower():
        return False
    if stop.group()[0] != ".":
        return True
    before = text[max(begin, stop.start() - _WORD_CHARS) : stop.start()].removesuffix("\n")
    word = _BEFORE_WORD.split(before)[-1].casefold()
    if word in _ALWAYS_INSIDE or (len(word) == 1 and word.isalpha() and word != "i"):
        return False
    return not (word in _INSIDE_BEFORE_DIGIT and text[following.end() - 1].isdigit())


def _trimmed(text: str, span: tuple[int, int], kind: Kind) -> Unit:
    start, end = span
    piece = text[start:end]
    if kind == "code":
        return Unit(start, start + len(piece.rstrip()), kind)
    end = start + _without_references(piece)
    start += len(piece) - len(piece.lstrip())
    if bullet := _BULLET.match(text, start, end):
        start = bullet.end()
    return Unit(start, max(start, end), kind)


def _without_references(piece: str) -> int:
    """Where `piece` ends without white space and reference marks behind it."""
    end = _stripped(piece, len(piece))
    while piece.endswith("]", 0, end):
        start = piece.rfind("[", max(0, end - _REFERENCE_CHARS), end)
        if start < 0 or not _REFERENCE.fullmatch(piece, start, end):
            break
        end = _stripped(piece, start)
    return end


def _stripped(text: str, end: int) -> int:
    while end and text[end - 1].isspace():
        end -= 1
    return end
