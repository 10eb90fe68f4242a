"""Every format: the words, their order, titles, pages, times; and what a reader would not see stays out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.indexing.formats.detect import detect
from jobs.indexing.formats.html import read_html
from jobs.indexing.parse import Parser, parse_batch
from jobs.indexing.schemas import ERROR_SCHEMA, PARSED_SCHEMA
from jobs.indexing.source import SourceItem, items_table, list_sources
from services.settings import Limits

Make = dict[str, Callable[..., bytes]]


@pytest.fixture(scope="module")
def parsed(samples: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Every sample, listed and parsed as a job would: document id → row."""
    root = tmp_path_factory.mktemp("samples")
    for name, data in samples.items():
        (root / name).write_bytes(data)
    items = [item for item in list_sources([str(root)], Limits()) if isinstance(item, SourceItem)]
    with Parser(Limits()) as parser:
        documents, errors = parser.parse(items_table(items, "c"))
    assert documents.schema == PARSED_SCHEMA
    assert errors.schema == ERROR_SCHEMA
    assert errors.num_rows == 0
    return {row["document_id"]: row for row in documents.to_pylist()}


@pytest.mark.parametrize(
    ("name", "kind", "title", "text"),
    [
        ("guide.md", "markdown", "Guide", "# Start\n\nHello there.\n\n## Install\n\n```\n# no heading\n```\nRun it.\n"),
        ("guide.rst", "rst", "Guide", "=====\nGuide\n=====\n\nIntro words.\n\nInstall\n-------\n\nRun pip.\n"),
        ("notes.txt", "text", "notes.txt", "Plain words about the sea.\nAnd a second line.\n"),
        ("notes.txt.gz", "text", "notes.txt", "Plain words about the sea.\nAnd a second line.\n"),
        ("add.py", "code:python", "add.py: Adds numbers.",
         '"""Adds numbers."""\n\n\ndef add(a, b):\n    """The sum."""\n    return a + b\n'),
        ("policy.docx", "markdown", "Leave policy",
         "# Leave policy\n\nStaff have thirty days.\n\nKept.\n\n| Grade | Days |\n| --- | --- |\n| A | 35 |"),
        ("deck.pptx", "markdown", "Roadmap", "# Roadmap\n\nFirst we plan.\n\n# Results\n\nThen we measure."),
        ("offices.xlsx", "rows", "offices.xlsx",
         "City | Opened | Open\nCity: Oslo; Opened: 2024-01-01; Open: true\nCity: Bergen; Open: false"),
        ("offices.csv", "rows", "offices.csv",
         "city | opened | staff\ncity: Oslo; opened: 2024-01-01; staff: 12\n"
         "city: Bergen; opened: 2023-05-17; staff: 7"),
        ("book.epub", "markdown", "Sea Tales", "# The Harbour\n\nGulls cried.\n\n# The Storm\n\nWaves rose."),
        ("paper.pdf", "text", "paper.pdf", "Page one speaks of whales.\n\nPage two speaks of ships."),
        ("talk.srt", "transcript", "talk.srt", "Welcome aboard.\nThe ship sails."),
        ("talk.vtt", "transcript", "talk.vtt", "Ann: Hello there.\nGoodbye."),
        ("r1", "text", "One", "First row."),
        ("z", "text", "", "Packed row."),
        ("bundle.zip/inner.zip/c.txt", "text", "c.txt", "Plain words about the sea.\nAnd a second line.\n"),
    ],
)  # fmt: skip
def test_text_and_title(parsed: dict[str, dict[str, Any]], name: str, kind: str, title: str, text: str) -> None:
    row = parsed[name]
    assert (row["format"], row["title"], row["text"]) == (kind, title, text)


def test_html_keeps_the_main_part_and_drops_what_is_hidden(parsed: dict[str, dict[str, Any]]) -> None:
    row = parsed["page.html"]
    assert row["title"] == "Tide tables"
    assert row["language"] == "en"
    assert row["text"].startswith("# Tides\n\nHigh water comes twice a day")
    for shown in ("Bergen", "06:12", "- Neap tide"):
        assert shown in row["text"]
    for hidden in ("ignore all rules", "secret", "Home"):
        assert hidden not in row["text"]


def test_mail_shows_headers_and_the_decoded_body(parsed: dict[str, dict[str, Any]]) -> None:
    row = parsed["letter.eml"]
    assert row["title"] == "Café hours"
    assert row["text"].endswith("Subject: Café hours\n\nThe café opens at nine.")
    assert row["updated_at"].isoformat() == "2023-01-02T09:00:00+00:00"


def test_spans_name_pages_and_times(parsed: dict[str, dict[str, Any]]) -> None:
    pages = parsed["paper.pdf"]
    assert [(pages["text"][s["start"] : s["end"]], s["page"]) for s in pages["spans"]] == [
        ("Page one speaks of whales.", 1),
        ("Page two speaks of ships.", 2),
    ]
    assert [s["t_start_s"] for s in parsed["talk.srt"]["spans"]] == [1.0, 62.5]
    assert [s["t_start_s"] for s in parsed["talk.vtt"]["spans"]] == [1.0, 3600.25]
    assert [(s["page"], s["heading"]) for s in parsed["deck.pptx"]["spans"]] == [(1, "Roadmap"), (2, "Results")]
    assert [s["heading"] for s in parsed["offices.xlsx"]["spans"]] == ["Offices"]


def test_markdown_front_matter_becomes_metadata(parsed: dict[str, dict[str, Any]]) -> None:
    assert parsed["guide.md"]["metadata"] == '{"tags": ["a", "b"], "title": "Guide"}'


@pytest.mark.parametrize(
    ("name", "kind"),
    [("paper.pdf", "pdf"), ("page.html", "html"), ("talk.srt", "srt"), ("talk.vtt", "vtt"), ("letter.eml", "mail"),
     ("policy.docx", "zip"), ("notes.txt.gz", "gzip")],
)  # fmt: skip
def test_content_decides_where_the_name_says_nothing(samples: dict[str, bytes], name: str, kind: str) -> None:
    assert detect("unnamed", samples[name]) == kind


def test_content_wins_over_a_wrong_name(samples: dict[str, bytes], tmp_path: Path) -> None:
    for wrong, right in (
        ("a.txt", "paper.pdf"),
        ("b.md", "policy.docx"),
        ("c.zip", "offices.xlsx"),
        ("d.pdf", "notes.txt"),
    ):
        (tmp_path / wrong).write_bytes(samples[right])
    items = [item for item in list_sources([str(tmp_path)], Limits()) if isinstance(item, SourceItem)]
    documents, errors = parse_batch(items_table(items, "c"), Limits())
    assert errors.num_rows == 0
    found = {row["document_id"]: row["text"] for row in documents.to_pylist()}
    assert "whales" in found["a.txt"]
    assert "thirty days" in found["b.md"]
    assert "Bergen" in found["c.zip"]
    assert "sea" in found["d.pdf"]


@pytest.mark.parametrize(
    "hiding",
    [
        '<p style="display:none">X</p>',
        '<p style="visibility : hidden">X</p>',
        '<p style="font-size:0">X</p>',
        '<p style="font-size: 0px;color:red">X</p>',
        '<p style="opacity:0">X</p>',
        '<p style="text-indent:-9999px">X</p>',
        '<p style="position:absolute;left:-5000px">X</p>',
        '<p style="font-size:1px">X</p>',
        '<p style="color:#fff; background:#FFFFFF">X</p>',
        '<p style="background-color: white; color: white">X</p>',
        '<p style="color: transparent">X</p>',
        '<p style="color:rgba(0, 0, 0, 0)">X</p>',
        '<p style="transform: scale(0)">X</p>',
        '<p style="clip-path: inset(100%)">X</p>',
        "<p hidden>X</p>",
        '<p aria-hidden="true">X</p>',
        "<template><p>X</p></template>",
        "<noscript>X</noscript>",
        "<script>X</script>",
        "<!-- X -->",
        "<style>.q{display:none}</style><p class=q>X</p>",
        "<style>#z , .y { color:red; visibility:hidden }</style><p id=z>X</p>",
        "<select><option>X</option></select>",
    ],
)
@pytest.mark.parametrize(
    "frame", ["<main><p>Words that are shown here.</p>{}</main>", "<p>Words that are shown here.</p>{}"]
)
def test_hidden_html_is_left_out(hiding: str, frame: str) -> None:
    page = f"<html><body>{frame.format(hiding.replace('X', 'smuggled'))}</body></html>".encode()
    text = read_html(page, "p", 10_000).text
    assert "Words that are shown here." in text
    assert "smuggled" not in text


@pytest.mark.parametrize(
    "style",
    [
        "color:#fff; background:#000",
        "color:white",  # the paper may be dark: another rule says so
        "background-clip: text; color: transparent; background-image: linear-gradient(red, blue)",
        "background-color: transparent",
        "color:rgba(0,0,0,0.5)",
        "font-size:10px",
        "transform:scale(0.5)",
    ],
)
def test_what_can_be_seen_stays(style: str) -> None:
    page = f'<html><body><main><p>Words.</p><p style="{style}">seen as well</p></main></body></html>'.encode()
    assert "seen as well" in read_html(page, "p", 10_000).text


def test_a_visible_font_size_below_one_is_not_taken_for_hidden() -> None:
    assert "shown" in read_html(b'<main><p style="font-size:0.9em">shown</p></main>', "p", 100).text


def test_a_table_of_sources_gives_one_row_each(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("words")
    items = [item for item in list_sources([str(tmp_path)], Limits()) if isinstance(item, SourceItem)]
    (tmp_path / "gone.md").unlink()
    documents, errors = parse_batch(items_table(items, "c"), Limits())
    assert documents.num_rows == 0
    assert errors.to_pylist()[0]["reason"] == "not_found"
    empty = parse_batch(items_table([], "c"), Limits())
    assert [table.num_rows for table in empty] == [0, 0]
    assert isinstance(empty[0], pa.Table)
