"""PDF → text with page numbers, by PDFium. Runs in the confined child."""

from __future__ import annotations

import re

from jobs.indexing.formats.document import Assembler, Parsed, one_line
from jobs.indexing.reasons import ParseFailure, Reason

_HYPHEN = re.compile("(?<=[a-z])(?:\ufffe|\u00ad|-)\r?\n(?=[a-z])|\ufffe")


def read_pdf(data: bytes, name: str, max_chars: int) -> Parsed:
    """Read a PDF page by page. Raises `ParseFailure`: `encrypted`, `malformed`, `empty` (scans have no text)."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error) or "ecurity" in str(error):
            raise ParseFailure(Reason.ENCRYPTED, "the PDF is encrypted; remove the password") from None
        raise ParseFailure(Reason.MALFORMED, f"the PDF cannot be opened: {error}") from None
    try:
        return _read(document, name, max_chars)
    finally:
        document.close()


def _read(document: object, name: str, max_chars: int) -> Parsed:
    text = Assembler(max_chars)
    broken = 0
    pages = len(document)  # type: ignore[arg-type]  # PdfDocument has a length; its package is untyped
    for number in range(pages):
        found = _page_text(document, number)
        broken += found is None
        # A page tree that claims thousands of pages it does not have is damage, not a long document.
        if broken > 100 and broken == number + 1:
            raise ParseFailure(Reason.MALFORMED, f"the PDF claims {pages} pages and the first {broken} do not exist")
        if found:
            text.add(_HYPHEN.sub("", found), page=number + 1)
    if not text.text:
        raise ParseFailure(Reason.EMPTY, "the PDF has no text on its pages; run OCR over it first")
    about = document.get_metadata_dict()  # type: ignore[attr-defined]
    metadata = {"pages": pages} | {key.lower(): about[key] for key in ("Author", "Subject") if about.get(key)}
    return Parsed(text.text, "text", one_line(about.get("Title") or "") or name, text.spans, metadata)


def _page_text(document: object, number: int) -> str | None:
    """The page's text, None for a page that cannot be loaded: the others may still be good."""
    import pypdfium2

    try:
        page = document[number]  # type: ignore[index]
        content = page.get_textpage()
        found = str(content.get_text_bounded())
        content.close()
        page.close()
    except pypdfium2.PdfiumError:
        return None
    return found
