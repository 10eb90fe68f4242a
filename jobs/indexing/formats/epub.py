"""EPUB → Markdown, chapters in reading order. Runs in the confined child."""

from __future__ import annotations

from urllib.parse import unquote
from xml.etree.ElementTree import Element

from jobs.indexing.archive import Archive
from jobs.indexing.formats.document import Assembler, Parsed, one_line
from jobs.indexing.formats.xml import parse_xml, resolve
from jobs.indexing.reasons import ParseFailure, Reason

_PAGES = ("application/xhtml+xml", "text/html")


def read_epub(archive: Archive, name: str, max_chars: int) -> Parsed:
    """Read the spine; a chapter that is missing or damaged leaves the others."""
    package, root = _package(archive)
    text = Assembler(max_chars)
    for chapter in _spine(root, package):
        if archive.has(chapter):
            text.add(_page(archive.read(chapter)))
    if not text.text:
        raise ParseFailure(Reason.EMPTY, "the book has no text")
    about = {node.tag.rsplit("}", 1)[-1]: node.text or "" for node in reversed(list(root.iter())) if node.text}
    metadata = {"creator": one_line(about["creator"])} if about.get("creator", "").strip() else {}
    language = about.get("language", "").strip().lower()[:2]
    return Parsed(
        text.text,
        "markdown",
        one_line(about.get("title", "")) or name,
        metadata=metadata,
        language=language if len(language) == 2 and language.isalpha() and language.isascii() else "",
    )


def _package(archive: Archive) -> tuple[str, Element]:
    """The package document's name and root, as the container names it."""
    container = parse_xml(archive.read("META-INF/container.xml"), "META-INF/container.xml")
    path = next((node.get("full-path", "") for node in container.iter() if node.tag.endswith("}rootfile")), "")
    if not archive.has(path):
        raise ParseFailure(Reason.MALFORMED, "the book's container names no package document")
    return path, parse_xml(archive.read(path), path)


def _spine(root: Element, package: str) -> list[str]:
    """Names of the chapters' members in reading order."""
    items: dict[str, str] = {}
    order: list[str] = []
    for node in root.iter():
        tag = node.tag.rsplit("}", 1)[-1]
        if tag == "item" and node.get("media-type") in _PAGES:
            items[node.get("id", "")] = resolve(package, unquote(node.get("href", "")))
        elif tag == "itemref":
            order.append(node.get("idref", ""))
    return [items[key] for key in order if key in items]


def _page(data: bytes) -> str:
    from selectolax.lexbor import LexborHTMLParser

    from jobs.indexing.clean import decode
    from jobs.indexing.formats.html import remove_hidden, to_markdown

    tree = LexborHTMLParser(decode(data))
    remove_hidden(tree)
    return to_markdown(tree.body) if tree.body else ""
