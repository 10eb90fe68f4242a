"""HTML → Markdown: the page's main text, without what its reader would not see. Runs in the confined child."""

from __future__ import annotations

import re
from typing import Any

from jobs.indexing.clean import clean, decode
from jobs.indexing.formats.document import Parsed, one_line
from jobs.indexing.reasons import ParseFailure, Reason

MIN_SHARE = 0.3  # below this share of the body's text the main-text heuristic has lost something
MAX_RULES = 200
MAX_DEPTH = 400

_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([A-Za-z0-9_\-]{2,40})", re.IGNORECASE)
_HIDDEN_STYLE = re.compile(
    r"display:none|visibility:(?:hidden|collapse)|font-size:0(?![.\d]*[1-9])|opacity:0(?:\.0+)?(?:;|$)"
    r"|text-indent:-\d{3,}|(?:left|top):-\d{3,}|clip:rect\(0|clip-path:inset\((?:50|100)%"
    r"|font-size:[01](?:\.\d+)?px|transform:scale\(0(?:\.0+)?\)|(?:^|;)color:(?:transparent|rgba\([^)]*,0(?:\.0+)?\))"
)
_INK = re.compile(r"(?:^|;)color:([^;!]+)")
_PAPER = re.compile(r"(?:^|;)background(?:-color)?:([^;!]+)")
_HEX = re.compile(r"#([0-9a-f])([0-9a-f])([0-9a-f])\Z")
_COLOURS = {"white": "#ffffff", "black": "#000000"}
_RULE = re.compile(r"([^{}]{1,300})\{([^{}]{0,2000})\}")
_REMOVED = (
    "script, style, noscript, template, iframe, object, embed, svg, canvas, form input, select, dialog:not([open]), "
    "[hidden], [aria-hidden='true']"
)
_BLOCKS = frozenset(
    ("address", "article", "aside", "blockquote", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption",
     "figure", "footer", "form", "header", "hr", "main", "nav", "p", "section", "summary", "table", "ul", "ol",
     "tbody", "thead", "tfoot", "body", "html")
)  # fmt: skip
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_BLANKS = re.compile(r"[ \t\r\f\v\n]+")
_MANY_BREAKS = re.compile(r"\n{3,}")


def read_html(data: bytes, name: str, max_chars: int) -> Parsed:
    """Read a page. Raises `ParseFailure`: `empty`, `too_large`, `encoding`."""
    from selectolax.lexbor import LexborHTMLParser

    declared = _CHARSET.search(data[:4096])
    tree = LexborHTMLParser(decode(data, declared[1].decode("ascii") if declared else None))
    title = tree.css_first("title")
    heading = tree.css_first("h1")
    language = (tree.root.attributes.get("lang") or "") if tree.root else ""
    names = one_line(title.text() if title else "") or one_line(heading.text() if heading else "")
    text = main_text(tree)
    if len(text) > max_chars:
        raise ParseFailure(Reason.TOO_LARGE, f"the page holds more than {max_chars} characters of text")
    if not text:
        raise ParseFailure(Reason.EMPTY, "the page shows no text")
    return Parsed(text, "markdown", names or name, language=_language(language))


def main_text(tree: Any) -> str:
    """The main text of a parsed page as Markdown; the whole body when no main part stands out."""
    remove_hidden(tree)
    body = tree.body or tree.root
    if body is None:
        return ""
    whole = to_markdown(body)
    marked = tree.css_first("main, [role='main']") or tree.css_first("article")
    if marked is not None and len(tree.css("article")) <= 1:
        main = to_markdown(marked)
    else:
        main = _extracted(tree.html or "")
        if "\n#" in whole and "#" not in main:  # the heuristic's last resort is bare text without structure
            return _without_frame(tree) or whole
    return main if len(main) >= MIN_SHARE * len(whole) else whole


def _without_frame(tree: Any) -> str:
    """The body's text without navigation, header, footer and sidebars."""
    for node in tree.css("nav, footer, aside, body > header"):
        node.decompose()
    return to_markdown(tree.body or tree.root)


def remove_hidden(tree: Any) -> None:
    """Drop scripts, forms' inner parts and every element that its own style or a style sheet hides."""
    selectors = [_REMOVED, *_hiding_selectors(tree)]
    for node in tree.css("[style]"):
        if _hides(node.attributes.get("style") or ""):
            node.decompose()
    for selector in selectors:
        try:
            found = tree.css(selector)
        except ValueError:  # a page's own selector that selectolax does not know
            continue
        for node in found:
            if node.tag not in ("html", "body"):
                node.decompose()


def _hides(style: str) -> bool:
    """Whether declarations leave nothing of their element to see: by size, place, or ink of the paper's colour."""
    declared = _BLANKS.sub("", style.lower())
    if "background-clip:text" in declared:  # the paper shows through the letters
        return False
    ink, paper = _INK.search(declared), _PAPER.search(declared)
    same = bool(ink and paper) and _colour(ink) == _colour(paper)
    return same or _HIDDEN_STYLE.search(declared) is not None


def _colour(found: re.Match[str] | None) -> str:
    """`#rrggbb` of the commonest spellings, anything else as it is written."""
    value = _COLOURS.get(found[1], found[1]) if found else ""
    return _HEX.sub(r"#\1\1\2\2\3\3", value)


def to_markdown(node: Any) -> str:
    """Headings, list items, table rows and preformatted text keep their shape; the rest is text."""
    parts: list[str] = []
    _render(node, parts, 0)
    lines = (line.rstrip() for line in "".join(parts).split("\n"))
    return clean(_MANY_BREAKS.sub("\n\n", "\n".join(lines))).strip()


def _render(node: Any, parts: list[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        parts.append(node.text(separator=" "))
        return
    child = node.child
    while child is not None:
        tag = child.tag
        if tag == "-text":
            parts.append(_BLANKS.sub(" ", child.text_content or ""))
        elif tag == "pre":
            parts.append("\n\n```\n" + child.text().strip("\n") + "\n```\n\n")
        elif tag == "br":
            parts.append("\n")
        elif tag in ("td", "th"):
            inner: list[str] = []
            _render(child, inner, depth + 1)
            parts.append(" | " + _BLANKS.sub(" ", "".join(inner)).strip())
        elif tag is not None and not tag.startswith(("-", "!", "_")):
            before, after = _around(tag)
            parts.append(before)
            _render(child, parts, depth + 1)
            parts.append(after)
        child = child.next


def _around(tag: str) -> tuple[str, str]:
    if tag in _HEADINGS:
        return "\n\n" + _HEADINGS[tag], "\n\n"
    if tag == "li":
        return "\n- ", ""
    if tag == "tr":
        return "\n", " |"
    return ("\n\n", "\n\n") if tag in _BLOCKS else ("", "")


def _extracted(html: str) -> str:
    import trafilatura

    found = trafilatura.extract(
        html,
        output_format="markdown",
        include_comments=False,
        include_tables=True,
        favor_recall=True,
        deduplicate=False,
    )
    return clean(found or "").strip()


def _hiding_selectors(tree: Any) -> list[str]:
    """Selectors of the page's own style sheets whose rule hides; at-rules are not looked into."""
    found: list[str] = []
    for sheet in tree.css("style"):
        for selector, body in _RULE.findall(sheet.text()):
            if _hides(body) and "@" not in selector:
                found.append(selector.strip())
            if len(found) >= MAX_RULES:
                return found
    return found


def _language(raw: str) -> str:
    code = raw.strip().lower()[:2]
    return code if code.isascii() and code.isalpha() and len(code) == 2 else ""
