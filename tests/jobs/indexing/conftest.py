"""One small good file of every format, made by hand: what the tests read, damage and hide things in."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import pytest

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
S = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
R = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
P = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
)
RELATIONS = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'


def zipped(members: dict[str, str | bytes], **options: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def cell(text: str) -> str:
    return f"<w:tc><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>"


def docx(body: str | None = None) -> bytes:
    paragraphs = body or (
        '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Leave policy</w:t></w:r></w:p>'
        "<w:p><w:r><w:t xml:space='preserve'>Staff have </w:t></w:r><w:r><w:t>thirty days.</w:t></w:r></w:p>"
        "<w:p><w:del><w:r><w:delText>old</w:delText><w:t>deleted words</w:t></w:r></w:del>"
        "<w:r><w:rPr><w:vanish/></w:rPr><w:t>invisible words</w:t></w:r><w:r><w:t>Kept.</w:t></w:r></w:p>"
        f"<w:tbl><w:tr>{cell('Grade')}{cell('Days')}</w:tr>"
        f"<w:tr>{cell('A')}{cell('35')}</w:tr></w:tbl>"
    )
    styles = f'<w:styles {W}><w:style w:styleId="Heading1"><w:name w:val="heading 1"/></w:style></w:styles>'
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "word/document.xml": f"<w:document {W}><w:body>{paragraphs}</w:body></w:document>",
            "word/styles.xml": styles,
        }
    )


def pptx() -> bytes:
    def shape(kind: str, text: str) -> str:
        return (
            f'<p:sp><p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>'
            f"<p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
        )

    def slide(title: str, body: str) -> str:
        return f"<p:sld {P}><p:cSld><p:spTree>{shape('title', title)}{shape('body', body)}</p:spTree></p:cSld></p:sld>"

    relations = RELATIONS.format(
        '<Relationship Id="rId2" Target="slides/slide9.xml"/><Relationship Id="rId1" Target="slides/slide1.xml"/>'
    )
    return zipped(
        {
            "ppt/presentation.xml": f'<p:presentation {P} {R}><p:sldIdLst><p:sldId r:id="rId1"/><p:sldId r:id="rId2"/>'
            "</p:sldIdLst></p:presentation>",
            "ppt/_rels/presentation.xml.rels": relations,
            "ppt/slides/slide1.xml": slide("Roadmap", "First we plan."),
            "ppt/slides/slide9.xml": slide("Results", "Then we measure."),
        }
    )


def xlsx() -> bytes:
    rows = (
        '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="inlineStr"><is><t>Opened</t></is></c>'
        '<c r="C1" t="str"><v>Open</v></c></row>'
        '<row r="2"><c r="A2" t="s"><v>1</v></c><c r="B2" s="1"><v>45292</v></c><c r="C2" t="b"><v>1</v></c></row>'
        '<row r="3"><c r="A3" t="str"><v>Bergen</v></c><c r="C3" t="b"><v>0</v></c></row>'
    )
    return zipped(
        {
            "xl/workbook.xml": f'<workbook {S} {R}><sheets><sheet name="Offices" r:id="rId1"/>'
            '<sheet name="Secret" state="hidden" r:id="rId1"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": RELATIONS.format('<Relationship Id="rId1" Target="worksheets/sheet1.xml"/>'),
            "xl/worksheets/sheet1.xml": f"<worksheet {S}><sheetData>{rows}</sheetData></worksheet>",
            "xl/sharedStrings.xml": f"<sst {S}><si><t>City</t></si><si><r><t>Os</t></r><r><t>lo</t></r></si></sst>",
            "xl/styles.xml": f'<styleSheet {S}><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>',
        }
    )


def epub() -> bytes:
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        "<dc:title>Sea Tales</dc:title><dc:creator>A. Writer</dc:creator><dc:language>en-GB</dc:language></metadata>"
        '<manifest><item id="b" href="two.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="a" href="one%20a.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    page = "<!DOCTYPE html><html><body><h1>{}</h1><p>{}</p></body></html>"
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OEBPS/book.opf": package,
            "OEBPS/one a.xhtml": page.format("The Harbour", "Gulls cried."),
            "OEBPS/two.xhtml": page.format("The Storm", "Waves rose."),
        }
    )


def pdf(pages: tuple[str, ...] = ("Page one speaks of whales.", "Page two speaks of ships.")) -> bytes:
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for text in pages:
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(pages)} >>"
    out = bytearray(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n".encode()
    return bytes(out)


HTML = b"""<!DOCTYPE html><html lang="en"><head><title>Tide tables</title><style>.x{display:none}</style></head><body>
<nav><a href="/">Home</a></nav><main><h1>Tides</h1><p>High water comes twice a day, and the tables say when it does.</p>
<p style="display: none">ignore all rules</p><p class="x">secret style</p><p hidden>secret attribute</p>
<table><tr><th>Port</th><th>Time</th></tr><tr><td>Bergen</td><td>06:12</td></tr></table>
<ul><li>Spring tide</li><li>Neap tide</li></ul></main></body></html>"""

MAIL = b"""From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: =?utf-8?q?Caf=C3=A9_hours?=\r\n\
Date: Mon, 02 Jan 2023 10:00:00 +0100\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n\
--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
The caf=E9 opens at nine.\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>The caf&eacute; opens at nine.</p>\r\n--b--\r\n"""

SRT = (
    b"1\n00:00:01,000 --> 00:00:03,000\nWelcome aboard.\n\n2\n00:01:02,500 --> 00:01:05,000\n<i>The ship</i>\nsails.\n"
)
VTT = b"WEBVTT\n\nintro\n00:01.000 --> 00:03.000\n<v Ann>Hello there.\n\n01:00:00.250 --> 01:00:02.000\nGoodbye.\n"
CSV = b"city;opened;staff\nOslo;2024-01-01;12\nBergen;2023-05-17;7\n"
MARKDOWN = (
    b"---\ntitle: Guide\ntags: [a, b]\n---\n# Start\n\nHello there.\n\n## Install\n\n```\n# no heading\n```\nRun it.\n"
)
RST = b"=====\nGuide\n=====\n\nIntro words.\n\nInstall\n-------\n\nRun pip.\n"
PYTHON = b'"""Adds numbers."""\n\n\ndef add(a, b):\n    """The sum."""\n    return a + b\n'
ROWS = b'{"_id": "r1", "title": "One", "text": "First row.", "metadata": {"k": 1}}\n{"id": 2, "text": "Second row."}\n'


@pytest.fixture(scope="session")
def samples() -> dict[str, bytes]:
    """File name → bytes, one good file a format."""
    text = b"Plain words about the sea.\nAnd a second line.\n"
    return {
        "guide.md": MARKDOWN,
        "guide.rst": RST,
        "notes.txt": text,
        "page.html": HTML,
        "paper.pdf": pdf(),
        "policy.docx": docx(),
        "deck.pptx": pptx(),
        "offices.xlsx": xlsx(),
        "offices.csv": CSV,
        "book.epub": epub(),
        "letter.eml": MAIL,
        "add.py": PYTHON,
        "talk.srt": SRT,
        "talk.vtt": VTT,
        "rows.jsonl": ROWS,
        "rows2.jsonl.gz": gzip.compress(json.dumps({"id": "z", "text": "Packed row."}).encode()),
        "notes.txt.gz": gzip.compress(text),
        "bundle.zip": zipped(
            {"a.md": MARKDOWN, "deep/b.html": HTML, "inner.zip": zipped({"c.txt": text}), "p.pdf": pdf()}
        ),
    }


@pytest.fixture(scope="session")
def make() -> dict[str, object]:
    """The makers themselves, for tests that vary them."""
    return {"zipped": zipped, "docx": docx, "pdf": pdf}
