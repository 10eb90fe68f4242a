"""DOCX and PPTX → Markdown, by reading their XML parts. Runs in the confined child."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from jobs.indexing.archive import Archive
from jobs.indexing.formats.document import Assembler, Parsed, one_line
from jobs.indexing.formats.xml import A, P, R, W, core_title, parse_xml, relations, table_row, walk
from jobs.indexing.reasons import ParseFailure, Reason

_HEADING = re.compile(r"heading\s*([1-9])$", re.IGNORECASE)
_NOT_SHOWN = frozenset({f"{W}del", f"{W}moveFrom", f"{W}instrText", f"{W}pPr", f"{W}tbl"})
_TITLES = ("title", "ctrTitle")
_MAX_COLUMNS = 63
_SHORT_NUMBER = re.compile(r"[0-9]{1,4}\Z")


def read_docx(archive: Archive, name: str, max_chars: int) -> Parsed:
    """Paragraphs, headings by style, lists and tables; deleted and hidden text is left out."""
    root = parse_xml(archive.read("word/document.xml"), "word/document.xml")
    styles = _styles(archive)
    levels, lists = _heading_levels(styles), _list_styles(styles)
    text = Assembler(max_chars)
    top = ""
    for block in _blocks(root):
        if block.tag == f"{W}tbl":
            text.add("\n".join(_table(block)))
            continue
        body = _paragraph(block).strip()
        level = _level(block, levels)
        if body and level and not top:
            top = one_line(body)
        mark = "- " if body and _is_item(block, lists) else ""
        text.add("#" * min(level, 6) + " " + one_line(body) if body and level else mark + body)
    for notes in ("word/footnotes.xml", "word/endnotes.xml"):
        if archive.has(notes):
            for paragraph in parse_xml(archive.read(notes), notes).iter(f"{W}p"):
                text.add(_paragraph(paragraph).strip())
    if not text.text:
        raise ParseFailure(Reason.EMPTY, "the document has no text")
    return Parsed(text.text, "markdown", core_title(archive) or top or name)


def read_pptx(archive: Archive, name: str, max_chars: int) -> Parsed:
    """Slides in their order as pages, each under its title; then its notes. Hidden slides are left out."""
    part = "ppt/presentation.xml"
    targets = relations(archive, part)
    order = [node.get(f"{R}id", "") for node in parse_xml(archive.read(part), part).iter(f"{P}sldId")]
    text = Assembler(max_chars)
    first = ""
    for number, slide in enumerate((targets[key] for key in order if key in targets), start=1):
        if not archive.has(slide):
            continue
        root = parse_xml(archive.read(slide), slide)
        if root.get("show") in ("0", "false"):
            continue
        title, body = _slide(root)
        first = first or title
        for notes in relations(archive, slide).values():
            if "/notesSlides/" in notes and archive.has(notes):
                body += "\n\n" + _slide(parse_xml(archive.read(notes), notes))[1]
        text.add(f"# {title}\n\n{body}" if title else body, page=number, heading=title)
    if not text.text:
        raise ParseFailure(Reason.EMPTY, "the slides have no text")
    return Parsed(text.text, "markdown", core_title(archive) or first or name, text.spans)


def _blocks(root: Element) -> list[Element]:
    """Paragraphs and outermost tables in reading order; a table's paragraphs belong to it."""
    blocks = frozenset({f"{W}p", f"{W}tbl"})
    return [node for node in walk(root, stop=frozenset({f"{W}tbl"})) if node.tag in blocks]


def _paragraph(paragraph: Element) -> str:
    parts: list[str] = []
    for node in walk(paragraph, stop=_NOT_SHOWN | {f"{W}p"}):
        if node.tag == f"{W}r" and node.find(f"{W}rPr/{W}vanish") is not None:
            for hidden in node.iter(f"{W}t"):
                hidden.text = ""
        elif node.tag == f"{W}t":
            parts.append(node.text or "")
        elif node.tag == f"{W}tab":
            parts.append("\t")
        elif node.tag in (f"{W}br", f"{W}cr"):
            parts.append("\n")
    return "".join(parts)


def _table(table: Element) -> list[str]:
    rows: list[str] = []
    for row in (node for node in walk(table, stop=frozenset({f"{W}tr"})) if node.tag == f"{W}tr"):
        cells: list[str] = []
        for cell in (node for node in walk(row, stop=frozenset({f"{W}tc"})) if node.tag == f"{W}tc"):
            cells.append(" ".join(_paragraph(p) for p in cell.iter(f"{W}p")))
            cells.extend([""] * (_span(cell) - 1))
        rows.append(table_row(cells))
        if len(rows) == 1:
            rows.append("|" + " --- |" * len(cells))
    return rows


def _span(cell: Element) -> int:
    """How many columns a cell covers, within what Word itself allows."""
    span = cell.find(f"{W}tcPr/{W}gridSpan")
    value = (span.get(f"{W}val") or "") if span is not None else ""
    return min(max(int(value), 1), _MAX_COLUMNS) if _SHORT_NUMBER.match(value) else 1


def _styles(archive: Archive) -> Element | None:
    part = "word/styles.xml"
    return parse_xml(archive.read(part), part) if archive.has(part) else None


def _list_styles(styles: Element | None) -> frozenset[str]:
    """Ids of the styles that make a paragraph an item of a list."""
    found = styles.iter(f"{W}style") if styles is not None else ()
    return frozenset(
        style.get(f"{W}styleId", "") for style in found if style.find(f"{W}pPr/{W}numPr/{W}numId") is not None
    )


def _heading_levels(styles: Element | None) -> dict[str, int]:
    """Style id → heading level 1–9, from the styles' names and outline levels; `Title` counts as 1."""
    if styles is None:
        return {f"Heading{level}": level for level in range(1, 7)}
    levels: dict[str, int] = {}
    for style in styles.iter(f"{W}style"):
        key, label = style.get(f"{W}styleId", ""), style.find(f"{W}name")
        title = (label.get(f"{W}val") or "") if label is not None else ""
        outline = style.find(f"{W}pPr/{W}outlineLvl")
        if match := _HEADING.match(title):
            levels[key] = int(match[1])
        elif title.lower() == "title":
            levels[key] = 1
        elif outline is not None and (outline.get(f"{W}val") or "").isdecimal():
            levels[key] = int(outline.get(f"{W}val") or 0) + 1
    return levels


def _level(paragraph: Element, levels: dict[str, int]) -> int:
    style = paragraph.find(f"{W}pPr/{W}pStyle")
    return levels.get(style.get(f"{W}val") or "", 0) if style is not None else 0


def _is_item(paragraph: Element, lists: frozenset[str]) -> bool:
    style = paragraph.find(f"{W}pPr/{W}pStyle")
    return paragraph.find(f"{W}pPr/{W}numPr") is not None or (
        style is not None and (style.get(f"{W}val") or "") in lists
    )


def _slide(root: Element) -> tuple[str, str]:
    """(title, other text) of a slide."""
    title = ""
    body: list[str] = []
    for shape in walk(root, stop=frozenset({f"{P}sp", f"{A}tbl"})):
        if shape.tag == f"{P}sp":
            lines = [line for paragraph in shape.iter(f"{A}p") if (line := _line(paragraph))]
            kind = shape.find(f"{P}nvSpPr/{P}nvPr/{P}ph")
            if not title and kind is not None and kind.get("type") in _TITLES:
                title = one_line(" ".join(lines))
            elif kind is None or kind.get("type") not in ("sldNum", "dt", "ftr"):
                body.append("\n".join(lines))
        elif shape.tag == f"{A}tbl":
            body.append("\n".join(_slide_rows(shape)))
    return title, "\n\n".join(part for part in body if part)


def _slide_rows(table: Element) -> list[str]:
    rows = [
        table_row([" ".join(_line(p) for p in cell.iter(f"{A}p")) for cell in row.iter(f"{A}tc")])
        for row in table.iter(f"{A}tr")
    ]
    return [rows[0], "|" + " --- |" * rows[0].count(" |"), *rows[1:]] if rows else []


def _line(paragraph: Element) -> str:
    texts = (
        "\n" if node.tag == f"{A}br" else node.text or ""
        for node in paragraph.iter()
        if node.tag in (f"{A}t", f"{A}br")
    )
    return "".join(texts).strip()
