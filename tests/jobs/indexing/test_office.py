"""Office files as real programs' libraries write them: python-docx, python-pptx, openpyxl."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from pptx.util import Inches

from jobs.indexing.parse import Parser
from jobs.indexing.source import items_table, list_sources
from services.settings import Limits

RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RULES = """# Harbour rules

# Mooring

Boats moor only at the north pier.

- Ring the bell

- Tie the rope

See the tide table.

| Length | Fee |
| --- | --- |
| up to 8 m | 12 crowns |
| all others | 30 crowns |

| Season |  | Days |
| --- | --- | --- |
| May | June | 61 |

## Speed

Three knots.\tNever more.
Ever."""
PLAN = """# Harbour plan

For the council

# Steps

Dredge the basin
Build the pier

Mention the budget.

# Costs

| Item | Crowns |
| --- | --- |
| Pier | 4000 |

Prices of May

In a group"""
FEES = """Boat | Paid on | Amount | Open | Share
Boat: Gull; Paid on: 2024-05-17; Amount: 12.5; Open: true; Share: 0.25
Boat: Tern; Paid on: 2024-05-18 07:30:00; Amount: 1234567890123; Open: false; Share: 0.5
Boat: Sum
Boat: two lines

Berths in June
Pier | Free
Pier: North; Free: 2
Pier: South; Free: 5"""


def rules() -> bytes:
    made = docx.Document()
    made.core_properties.title = "Rules of the harbour"
    made.add_heading("Harbour rules", 0)
    made.add_heading("Mooring", 1)
    split = made.add_paragraph("Boats moor ")
    split.add_run("only").bold = True
    split.add_run(" at the north pier.")
    made.add_paragraph("Ring the bell", style="List Bullet")
    made.add_paragraph("Tie the rope", style="List Number")
    linked = made.add_paragraph("See ")
    linked._p.append(hyperlink(linked.part, "https://example.com/tides", "the tide table"))
    linked.add_run(".")
    fees = made.add_table(rows=0, cols=2)
    for cells in (("Length", "Fee"), ("up to 8 m", "12 crowns"), ("all others", "30 crowns")):
        for cell, text in zip(fees.add_row().cells, cells, strict=True):
            cell.text = text
    season = made.add_table(rows=2, cols=3)
    season.cell(0, 0).merge(season.cell(0, 1)).text = "Season"
    for (row, column), text in {(0, 2): "Days", (1, 0): "May", (1, 1): "June", (1, 2): "61"}.items():
        season.cell(row, column).text = text
    made.add_page_break()
    made.add_heading("Speed", 2)
    made.add_paragraph("Three knots.\tNever more.\nEver.")
    made.sections[0].header.paragraphs[0].text = "On every page"
    return saved(made)


def hyperlink(part: Any, url: str, text: str) -> Any:
    link, run, words = OxmlElement("w:hyperlink"), OxmlElement("w:r"), OxmlElement("w:t")
    link.set(qn("r:id"), part.relate_to(url, f"{RELATIONS}/hyperlink", is_external=True))
    words.text = text
    run.append(words)
    link.append(run)
    return link


def plan() -> bytes:
    made = pptx.Presentation()
    first = made.slides.add_slide(made.slide_layouts[0])
    first.shapes.title.text, first.placeholders[1].text = "Harbour plan", "For the council"
    steps = made.slides.add_slide(made.slide_layouts[1])
    steps.shapes.title.text = "Steps"
    steps.placeholders[1].text_frame.text = "Dredge the basin"
    second = steps.placeholders[1].text_frame.add_paragraph()
    second.text, second.level = "Build the pier", 1
    steps.notes_slide.notes_text_frame.text = "Mention the budget."
    hidden = made.slides.add_slide(made.slide_layouts[1])
    hidden.shapes.title.text, hidden.placeholders[1].text = "Not yet", "Nobody shows this."
    hidden._element.set("show", "0")
    costs = made.slides.add_slide(made.slide_layouts[5])
    costs.shapes.title.text = "Costs"
    place = (Inches(1), Inches(1), Inches(4), Inches(1))
    table = costs.shapes.add_table(2, 2, *place).table
    for (row, column), text in {(0, 0): "Item", (0, 1): "Crowns", (1, 0): "Pier", (1, 1): "4000"}.items():
        table.cell(row, column).text = text
    costs.shapes.add_textbox(*place).text_frame.text = "Prices of May"
    costs.shapes.add_group_shape().shapes.add_textbox(*place).text_frame.text = "In a group"
    return saved(made)


def fees() -> bytes:
    made = openpyxl.Workbook()
    sheet = made.active
    sheet.title = "Fees"
    sheet.append(["Boat", "Paid on", "Amount", "Open", "Share"])
    sheet.append(["Gull", date(2024, 5, 17), 12.5, True, 0.25])
    sheet.append(["Tern", datetime(2024, 5, 18, 7, 30), 1_234_567_890_123, False, 0.5])
    sheet.append(["Sum", None, "=SUM(C2:C3)", None, None])  # never computed, so there is no value to show
    sheet.append(["two\nlines"])
    hidden = made.create_sheet("Old")
    hidden.append(["nobody", "sees"])
    hidden.sheet_state = "hidden"
    june = made.create_sheet("June")
    june.append(["Berths in June"])
    june.merge_cells("A1:B1")
    for row in (["Pier", "Free"], ["North", 2], ["South", 5]):
        june.append(row)
    made.create_sheet("Empty")
    return saved(made)


def saved(made: Any) -> bytes:
    buffer = io.BytesIO()
    made.save(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    root = tmp_path_factory.mktemp("office")
    for name, data in (("rules.docx", rules()), ("plan.pptx", plan()), ("fees.xlsx", fees())):
        Path(root / name).write_bytes(data)
    with Parser(Limits()) as parser:
        documents, errors = parser.parse(items_table(list(list_sources([str(root)], Limits())), "c"))
    assert errors.num_rows == 0
    return {row["document_id"]: row for row in documents.to_pylist()}


def test_a_document_keeps_its_headings_lists_links_and_tables(parsed: dict[str, dict[str, Any]]) -> None:
    assert (parsed["rules.docx"]["title"], parsed["rules.docx"]["text"]) == ("Rules of the harbour", RULES)


def test_slides_keep_their_order_and_pages_and_hidden_ones_stay_out(parsed: dict[str, dict[str, Any]]) -> None:
    row = parsed["plan.pptx"]
    assert row["text"] == PLAN
    assert [(span["page"], span["heading"]) for span in row["spans"]] == [
        (1, "Harbour plan"),
        (2, "Steps"),
        (4, "Costs"),
    ]


def test_sheets_show_what_their_cells_show(parsed: dict[str, dict[str, Any]]) -> None:
    row = parsed["fees.xlsx"]
    assert row["text"] == FEES
    assert [span["heading"] for span in row["spans"]] == ["Fees", "June"]
