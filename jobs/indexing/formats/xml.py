"""XML from untrusted packages: no document types, no entities. Runs in the confined child."""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import dirname, normpath
from xml.etree.ElementTree import Element

from jobs.indexing.archive import Archive
from jobs.indexing.clean import clean
from jobs.indexing.formats.document import one_line
from jobs.indexing.reasons import ParseFailure, Reason

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
S = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"


def parse_xml(data: bytes, what: str) -> Element:
    """The root element. Raises `ParseFailure` (`malformed`), also for a DTD or entities (XML bombs)."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise ParseFailure(Reason.MALFORMED, f"{what} is no safe XML: {error}") from None
    return root


def relations(archive: Archive, part: str) -> dict[str, str]:
    """Relation id → part name, as `part` names its neighbours; targets outside the package are left out."""
    folder, _, name = part.rpartition("/")
    path = f"{folder}/_rels/{name}.rels".lstrip("/")
    if not archive.has(path):
        return {}
    found: dict[str, str] = {}
    for relation in parse_xml(archive.read(path), path):
        target = relation.get("Target", "")
        if relation.get("TargetMode") != "External":
            found[relation.get("Id", "")] = resolve(part, target)
    return found


def resolve(part: str, target: str) -> str:
    """`target` as named from `part`, as a member's name."""
    return normpath(target if target.startswith("/") else f"{dirname(part)}/{target}").lstrip("/")


def core_title(archive: Archive) -> str:
    """The title of an Office package's properties, "" when it has none."""
    if not archive.has("docProps/core.xml"):
        return ""
    root = parse_xml(archive.read("docProps/core.xml"), "docProps/core.xml")
    return one_line(next((node.text or "" for node in root.iter() if node.tag.endswith("}title")), ""))


def walk(root: Element, stop: frozenset[str] = frozenset()) -> Iterator[Element]:
    """Elements below `root` in order, without recursion; what is inside `stop` tags or a fallback is left out."""
    stack = list(reversed(root))
    while stack:
        node = stack.pop()
        yield node
        if node.tag not in stop and node.tag != f"{MC}Fallback":
            stack.extend(reversed(node))


def table_row(cells: list[str]) -> str:
    """Cells as one Markdown table row."""
    return "| " + " | ".join(" ".join(clean(cell).split()).replace("|", "\\|") for cell in cells) + " |"
