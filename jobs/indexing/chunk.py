"""Parsed documents → chunks, ready to be embedded. Pure: one table of `PARSED_SCHEMA` in, one of `chunk_schema()` out.

A chunk's text is text[char_start:char_end] of its document, at most `chunking.tokens` long; every character that
is not blank lies in some chunk. Its id depends on nothing but the tenant, the document, the text and the
fingerprint, so that a repeated task writes the same rows.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from jobs.indexing.headings import Marks, heading_marks, path_at, span_marks
from jobs.indexing.splitting import Piece, TokenSplitter
from services.retrieval.lexical import lexical
from tenants.config import Chunking
from tenants.corpus.facets import facets
from tenants.corpus.schema import chunk_schema
from tenants.ids import TenantUid, chunk_id, text_digest

LANGUAGE_SAMPLE_CHARS = 600
LANGUAGE_MIN_CHARS = 20
LANGUAGE_MIN_PROBABILITY = 0.7


def chunk_batch(table: pa.Table, chunking: Chunking, tokenizer_json: str, uid: TenantUid, fingerprint: str) -> pa.Table:
    """Chunk every document of `table`; documents in their order, chunks in reading order."""
    documents = table.to_pylist()
    splitter = _splitter(chunking.tokens, chunking.overlap, tokenizer_json)
    pieces = splitter.split([d["text"] for d in documents], [d["format"] for d in documents])
    rows = [
        row
        for document, found in zip(documents, pieces, strict=True)
        for row in _rows(document, found, uid, fingerprint)
    ]
    return pa.Table.from_pylist(rows, schema=chunk_schema())


def detect_language(text: str, kind: str) -> str:
    """ISO 639-1 code of the text, "" when it is code, short or undecided."""
    sample = text[:LANGUAGE_SAMPLE_CHARS]
    if kind.startswith("code:") or len(sample.strip()) < LANGUAGE_MIN_CHARS:
        return ""
    code, probability = _identifier().classify(sample)
    return str(code) if probability >= LANGUAGE_MIN_PROBABILITY else ""


def _rows(document: dict[str, Any], pieces: list[Piece], uid: TenantUid, fingerprint: str) -> Iterator[dict[str, Any]]:
    if not pieces:
        return
    text, title, spans = document["text"], document["title"], document["spans"]
    shared = _shared(document)
    marks = _marks(document)
    starts = [span["start"] for span in spans]
    seen: Counter[str] = Counter()
    for ordinal, piece in enumerate(pieces):
        body = text[piece.start : piece.end]
        digest = text_digest(body)
        heading = path_at(marks, piece.start)
        span = spans[max(0, bisect_right(starts, piece.start) - 1)] if spans else {}
        yield shared | {
            "chunk_id": chunk_id(uid, document["document_id"], digest, seen[digest], fingerprint),
            "ordinal": ordinal,
            "heading": heading,
            "text": body,
            "lexical": lexical(title, heading, body),
            "char_start": piece.start,
            "char_end": piece.end,
            "page": span.get("page"),
            "t_start_s": span.get("t_start_s"),
            "tokens": piece.tokens,
        }
        seen[digest] += 1


def _shared(document: dict[str, Any]) -> dict[str, Any]:
    """The columns that all chunks of a document have in common."""
    names = ("document_id", "collection", "source", "title", "url", "updated_at", "metadata", "document_digest")
    return {name: document[name] for name in names} | {
        "facets": facets(json.loads(document["metadata"])),
        "language": document["language"] or detect_language(document["text"], document["format"]),
    }


def _marks(document: dict[str, Any]) -> Marks:
    if document["format"] in ("markdown", "rst"):
        return heading_marks(document["text"], document["format"])
    return span_marks(document["spans"])


@lru_cache(maxsize=4)
def _splitter(tokens: int, overlap: int, tokenizer_json: str) -> TokenSplitter:
    return TokenSplitter(Chunking(tokens=tokens, overlap=overlap), tokenizer_json)


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    """Loads the model of py3langid, a second once per process."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
