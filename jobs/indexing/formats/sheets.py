"""XLSX and CSV → one line a row, `column: value; column: value`, so that a row is understood by itself.

Runs in the confined child. Rows of one sheet share a span whose heading is the sheet's name.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from xml.etree.ElementTree import Element

from jobs.indexing.archive import Archive
from jobs.indexing.clean import clean, decode
from jobs.indexing.formats.document import Assembler, Parsed, one_line
from jobs.indexing.formats.xml import R, S, core_title, parse_xml, relations
from jobs.indexing.reasons import ParseFailure, Reason

MAX_CELL_CHARS = 10_000
MAX_COLUMNS = 16_384
MAX_TITLES = 10  # rows of a single cell above a table
DELIMITERS = ",;\t|"

_DATES = frozenset({*range(14, 23), *range(45, 48)})  # built-in number formats that show a date or time
_DATE_FORMAT = re.compile(r"(?:\"[^\"]*\"|\\.|\[[^\]]*\])")
_COLUMN = re.compile(r"[A-Z]{1,3}")
_EPOCH, _EPOCH_1904 = datetime(1899, 12, 30), datetime(1904, 1, 1)  # sheets know no time zones
_NUMBER = re.compile(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?%?\Z")


def read_csv(data: bytes, name: str, max_chars: int) -> Parsed:
    """Read delimited rows; the delimiter is the one that parts the first lines most evenly."""
    source = decode(data)
    csv.field_size_limit(max(MAX_CELL_CHARS * 10, 131_072))
    try:
        lines = list(row_lines(csv.reader(io.StringIO(source, newline=""), delimiter=_delimiter(source))))
    except csv.Error as error:
        raise ParseFailure(Reason.MALFORMED, f"the rows cannot be read: {error}") from None
    text = Assembler(max_chars)
    text.add("\n".join(lines))
    if not text.text:
        raise ParseFailure(Reason.EMPTY, "the table has no rows")
    return Parsed(text.text, "rows", name)


def read_xlsx(archive: Archive, name: str, max_chars: int) -> Parsed:
    """Read every visible sheet; formulas show the value that was last computed."""
    part = "xl/workbook.xml"
    workbook, targets = parse_xml(archive.read(part), part), relations(archive, part)
    about = workbook.find(f"{S}workbookPr")
    epoch = _EPOCH_1904 if about is not None and about.get("date1904") in ("1", "true") else _EPOCH
    cells = _Cells(_strings(archive), _date_styles(archive), epoch)
    text = Assembler(max_chars)
    for sheet in workbook.iter(f"{S}sheet"):
        path = targets.get(sheet.get(f"{R}id", ""), "")
        if sheet.get("state", "visible") == "visible" and archive.has(path):
            rows = (cells.row(row) for row in parse_xml(archive.read(path), path).iter(f"{S}row"))
            text.add("\n".join(row_lines(rows)), heading=sheet.get("name"))
    if not text.text:
        raise ParseFailure(Reason.EMPTY, "the workbook has no values")
    return Parsed(text.text, "rows", core_title(archive) or name, text.spans)


def row_lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """One line a row; the first row of several cells names the columns if all its cells are words and differ."""
    header: list[str] | None = None
    for number, row in enumerate(rows):
        cells = [" ".join(clean(cell[:MAX_CELL_CHARS]).split()) for cell in row[:MAX_COLUMNS]]
        if not any(cells):
            continue
        if header is None and sum(map(bool, cells)) == 1 and number < MAX_TITLES:
            yield next(filter(None, cells))  # a title above the table
            continue
        if header is None:
            header = [one_line(cell, 100) for cell in cells] if _is_header(cells) else []
            yield " | ".join(cell for cell in cells if cell)
            continue
        names = header + [""] * (len(cells) - len(header))
        yield "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell)


def _is_header(cells: Sequence[str]) -> bool:
    named = [cell for cell in cells if cell]
    return len(named) > 1 and len(set(named)) == len(named) and not any(_NUMBER.match(cell) for cell in named)


def _delimiter(source: str) -> str:
    lines = source[:20_000].splitlines()[:20]
    # The fewest on any line counts, so that a comma inside prose does not win.
    return max(DELIMITERS, key=lambda mark: (min((line.count(mark) for line in lines if line), default=0), mark == ","))


class _Cells:
    """Turns a sheet's cells into the text that a person sees."""

    def __init__(self, strings: list[str], date_styles: frozenset[int], epoch: datetime) -> None:
        self._strings = strings
        self._date_styles = date_styles
        self._epoch = epoch

    def row(self, row: Element) -> list[str]:
        cells: list[str] = []
        for cell in row.iter(f"{S}c"):
            place = _column(cell.get("r", ""))
            if place is not None and len(cells) < place < MAX_COLUMNS:
                cells.extend([""] * (place - len(cells)))
            cells.append(self._value(cell))
        return cells

    def _value(self, cell: Element) -> str:
        kind, value = cell.get("t", "n"), cell.findtext(f"{S}v") or ""
        if kind == "inlineStr":
            return "".join(node.text or "" for node in cell.iter(f"{S}t"))
        if kind == "s":
            return self._strings[int(value)] if value.isdecimal() and int(value) < len(self._strings) else ""
        if kind == "b":
            return "true" if value == "1" else "false"
        style = cell.get("s", "")
        if kind == "n" and style.isdecimal() and int(style) in self._date_styles:
            return self._date(value)
        return value

    def _date(self, value: str) -> str:
        try:
            moment = self._epoch + timedelta(days=float(value))
        except (ValueError, OverflowError):
            return value
        return moment.date().isoformat() if float(value).is_integer() else moment.isoformat(" ", "seconds")


def _column(reference: str) -> int | None:
    """0-based column of a reference such as `BC12`."""
    match = _COLUMN.match(reference)
    if match is None:
        return None
    place = 0
    for letter in match[0]:
        place = place * 26 + ord(letter) - 64
    return place - 1


def _strings(archive: Archive) -> list[str]:
    path = "xl/sharedStrings.xml"
    if not archive.has(path):
        return []
    items = parse_xml(archive.read(path), path).iter(f"{S}si")
    return ["".join(node.text or "" for node in item.iter(f"{S}t")) for item in items]


def _date_styles(archive: Archive) -> frozenset[int]:
    """Indices of the cell styles that show dates."""
    path = "xl/styles.xml"
    if not archive.has(path):
        return frozenset()
    root = parse_xml(archive.read(path), path)
    own = {
        node.get("numFmtId"): _DATE_FORMAT.sub("", node.get("formatCode", "")).lower()
        for node in root.iter(f"{S}numFmt")
    }
    cells = root.find(f"{S}cellXfs")
    formats = [node.get("numFmtId", "0") for node in cells] if cells is not None else []
    return frozenset(
        index
        for index, code in enumerate(formats)
        if (code.isdecimal() and int(code) in _DATES) or any(mark in own.get(code, "") for mark in ("yy", "dd", "hh"))
    )
