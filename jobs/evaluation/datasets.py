"""Labelled questions on disk: the BEIR layout, plain or gzipped.

`corpus.jsonl` {_id, title, text, metadata?} · `queries.jsonl` {_id, text} · `qrels/<split>.tsv` with a header, then
query id, document id, grade. A query or a grade that cannot be read is an error that names its line.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from tenants.errors import InvalidInput, NotFound
from tenants.ids import DIGEST_CHARS


@dataclass(frozen=True, slots=True)
class Dataset:
    """`queries` are the judged ones, by id; `judgements` {query: {document: grade}}; `digest` covers both.

    `answers` are gold texts of the queries whose line has an `answers` list.
    """

    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]
    digest: str
    answers: dict[str, tuple[str, ...]] = field(default_factory=dict)


def load_dataset(queries: Path, qrels: Path) -> Dataset:
    """Read both files. Queries without a judgement are left out, judgements without a query are an error."""
    judgements = read_qrels(qrels)
    rows = {str(row["_id"]): row for row in read_jsonl(queries) if str(row["_id"]) in judgements}
    texts = {query: str(row["text"]) for query, row in rows.items()}
    missing = judgements.keys() - texts.keys()
    if missing:
        raise InvalidInput(f"{qrels.name} judges {len(missing)} queries that {queries.name} does not hold; check both")
    answers = {query: gold for query, row in rows.items() if (gold := _gold(row.get("answers")))}
    return Dataset({query: texts[query] for query in judgements}, judgements, digest_of(texts, judgements), answers)


def _gold(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str) and one.strip()) if isinstance(value, list) else ()


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a `.jsonl` or `.jsonl.gz` file, in order."""
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict) or "_id" not in row or "text" not in row:
                raise InvalidInput(f"{path.name} line {number} is no JSON object with _id and text")
            yield row


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """{query: {document: grade}} of a tab-separated file; its first line is a header."""
    return {query: {name: round(value) for name, value in row.items()} for query, row in read_scores(path).items()}


def read_scores(path: Path) -> dict[str, dict[str, float]]:
    """{query: {document: score}} of a file that is laid out like qrels."""
    scores: dict[str, dict[str, float]] = {}
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if number == 1 or not line.strip():
                continue
            parts = line.rstrip("\r\n").split("\t")
            try:
                query, document, score = parts
                scores.setdefault(query, {})[document] = _finite(score)
            except ValueError:
                raise InvalidInput(f"{path.name} line {number} is not query id, document id and grade") from None
    return scores


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def digest_of(queries: dict[str, str], judgements: dict[str, dict[str, int]]) -> str:
    """128 bits of blake3 over the sorted content: the same questions and grades, the same digest."""
    text = json.dumps([sorted(queries.items()), sorted((q, sorted(g.items())) for q, g in judgements.items())])
    return blake3(text.encode()).hexdigest()[:DIGEST_CHARS]


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise NotFound(f"there is no file {path}; check the path")
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
