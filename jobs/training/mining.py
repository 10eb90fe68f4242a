"""Questions → what Fathom's own first stage finds for them: the hard negatives of a cross-encoder. Ray-free.

A mined source is two tables, kept as Parquet so that a second training run starts at once:

    passages   document_id, text (title, heading and text, as both retrieval legs read them), reserved
    questions  text, split, positives list<int32> (rows of passages, best first), ranking list<int32> (the fused
               order of the first stage; of a training question without relevant and reserved documents), fused
               list<float32> (their fused scores), taught list<float32> (a teacher's logits of positives and
               ranking, NaN = not scored; empty = no teacher), refused list<int32> (rows that users called irrelevant
               or passed over, worst first; mostly none), weight float32 (what the question counts in the loss, 1 = as
               any other; see `opinions`)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.evaluation.memory_index import DEPTH, MemoryIndex, lexical_texts, passages_of
from jobs.training.sources import Judged, Source
from services.contracts import Float32, Passage, Span
from services.embedding.encoder import Encoder
from services.retrieval.fusion import FusionProfile, fuse
from tenants.errors import InvalidInput

HeldOut = Literal["documents", "questions"]
POSITIVES = 2  # chunks of the relevant documents that are used, the first stage's best first

PASSAGES = pa.schema([("document_id", pa.string()), ("text", pa.string()), ("reserved", pa.bool_())])
QUESTIONS = pa.schema(
    [
        ("text", pa.string()),
        ("split", pa.string()),
        ("positives", pa.list_(pa.int32())),
        ("ranking", pa.list_(pa.int32())),
        ("fused", pa.list_(pa.float32())),
        ("taught", pa.list_(pa.float32())),
        ("refused", pa.list_(pa.int32())),
        ("weight", pa.float32()),
    ]
)
_DIGEST, _LICENCE = b"fathom_digest", b"fathom_licence"
_CHUNKS = pa.schema(
    [
        ("number", pa.int64()),
        ("document_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("ordinal", pa.int64()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("tokens", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Mined:
    """One source's tables, see the module's docstring; `digest` names the sampled data.

    `held_out` says what keeps its dev questions fair: documents that are not trained on, or (of feedback) only the
    questions themselves.
    """

    name: str
    digest: str
    licence: str
    passages: pa.Table
    questions: pa.Table
    held_out: HeldOut = "documents"

    def save(self, folder: Path) -> None:
        """Write both tables below `folder`."""
        home = folder / self.name
        home.mkdir(parents=True, exist_ok=True)
        tag = {_DIGEST: self.digest.encode(), _LICENCE: self.licence.encode()}
        pq.write_table(self.passages.replace_schema_metadata(tag), home / "passages.parquet")
        pq.write_table(self.questions.replace_schema_metadata(tag), home / "questions.parquet")


def load_mined(folder: Path, name: str) -> Mined:
    """What `Mined.save` wrote, before there were weights, too. Raises `InvalidInput` when it is not whole."""
    try:
        passages, questions = (pq.read_table(folder / name / f"{kind}.parquet") for kind in ("passages", "questions"))
        questions = _weighted(questions)
        if passages.schema.names != PASSAGES.names or questions.schema.names != QUESTIONS.names:
            raise InvalidInput(f"{folder / name} holds other columns than mined questions have; mine them again")
        tag = questions.schema.metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidInput(f"{folder / name} holds no mined questions ({error}); mine them again") from None
    return Mined(name, tag.get(_DIGEST, b"").decode(), tag.get(_LICENCE, b"").decode(), passages, questions)


def _weighted(questions: pa.Table) -> pa.Table:
    """With the columns that came later, as if every question counted alike and nothing had been refused."""
    count = questions.num_rows
    if "refused" not in questions.schema.names:
        questions = questions.append_column(QUESTIONS.field("refused"), pa.array([[]] * count, pa.list_(pa.int32())))
    if "weight" not in questions.schema.names:
        questions = questions.append_column(QUESTIONS.field("weight"), pa.array([1.0] * count, pa.float32()))
    return questions


def mined_digest(folder: Path, name: str) -> str | None:
    """Which sample was mined into `folder`; None when there is none."""
    path = folder / name / "questions.parquet"
    if not path.is_file():
        return None
    return (pq.read_schema(path).metadata or {}).get(_DIGEST, b"").decode() or None


@dataclass(frozen=True, slots=True)
class Corpus:
    """Chunks and their (n, d) float32 unit vectors."""

    passages: tuple[Passage, ...]
    vectors: Float32


def chunked(encoder: Encoder, documents: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Documents {_id, title, text, number} as chunks in rows that Arrow holds, vectors included."""
    numbers = {str(row["_id"]): row["number"] for row in documents}
    passages = passages_of(encoder, documents)
    vectors = encoder.encode(lexical_texts(passages))
    rows = [
        {
            "number": numbers[one.document_id],
            "document_id": one.document_id,
            "title": one.title,
            "text": one.text,
            "ordinal": one.ordinal,
            "start": one.span.char_start,
            "end": one.span.char_end,
            "tokens": one.tokens,
        }
        for one in passages
    ]
    table = pa.Table.from_pylist(rows, schema=_CHUNKS)
    flat = pa.array(vectors.reshape(-1), pa.float32())
    return table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, encoder.dimension))


def corpus_of(chunks: pa.Table) -> Corpus:
    """What `chunked` made of all documents, in their order."""
    rows = chunks.drop_columns(["vector"]).to_pylist()
    column = chunks["vector"].combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    passages = tuple(
        Passage(
            chunk_id=f"c_{row}",
            document_id=one["document_id"],
            title=one["title"],
            heading="",
            text=one["text"],
            collection="default",
            ordinal=one["ordinal"],
            span=Span(one["start"], one["end"]),
            url=None,
            updated_at=None,
            metadata={},
            tokens=one["tokens"],
        )
        for row, one in enumerate(rows)
    )
    return Corpus(passages, vectors)


class Miner:
    """Searches one source's corpus as the platform would, with the default fusion of a corpus without labels."""

    def __init__(self, index: MemoryIndex, reserved: frozenset[str], profile: FusionProfile | None = None) -> None:
        self._index = index
        self._reserved = reserved
        self._profile = profile or FusionProfile()
        self._row_of = {one.chunk_id: row for row, one in enumerate(index.passages)}
        self._rows_of: dict[str, list[int]] = {}
        for row, one in enumerate(index.passages):
            self._rows_of.setdefault(one.document_id, []).append(row)

    def mine(self, questions: Sequence[Judged]) -> pa.Table:
        """One row of QUESTIONS for each; without positives when the relevant documents have no chunk."""
        found = self._index.encode_queries([one.text for one in questions])
        rows = [self._row(one, self._ranked(one.text, vector)) for one, vector in zip(questions, found, strict=True)]
        return pa.Table.from_pylist(rows, schema=QUESTIONS)

    def _ranked(self, text: str, vector: Float32) -> dict[int, float]:
        """{row: fused score}, best first."""
        found = self._index.candidates(text, vector)
        fused = fuse(found, "hybrid", self._profile)
        order = fused.order[:DEPTH].tolist()
        return {self._row_of[found.passages[row].chunk_id]: float(fused.score[row]) for row in order}

    def _row(self, one: Judged, ranked: dict[int, float]) -> dict[str, Any]:
        gold = [row for document in one.gold for row in self._rows_of.get(document, ())]
        place = {row: rank for rank, row in enumerate(ranked)}
        positives = sorted(gold, key=lambda row: place.get(row, len(ranked)))
        training = one.split == "train"
        kept = self._negatives(ranked, set(gold)) if training else list(ranked)
        positives = positives[:POSITIVES] if training else positives
        return {
            "text": one.text,
            "split": one.split,
            "positives": positives,
            "ranking": kept,
            "fused": [ranked[row] for row in kept],
            "taught": [self._taught(one, row) for row in (*positives, *kept)] if one.taught else [],
            "refused": [],
            "weight": 1.0,
        }

    def _taught(self, one: Judged, row: int) -> float:
        return one.taught.get(self._index.passages[row].document_id, math.nan)

    def _negatives(self, ranked: Iterable[int], gold: set[int]) -> list[int]:
        """The fused order without relevant and reserved documents, nor copies of a relevant passage."""
        passages = self._index.passages
        texts = {passages[row].text for row in gold}
        return [
            row
            for row in ranked
            if row not in gold and passages[row].document_id not in self._reserved and passages[row].text not in texts
        ]


def passage_table(passages: Sequence[Passage], reserved: frozenset[str]) -> pa.Table:
    """Chunks as PASSAGES."""
    rows = [
        {"document_id": one.document_id, "text": text, "reserved": one.document_id in reserved}
        for one, text in zip(passages, lexical_texts(passages), strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=PASSAGES)


def mine_source(source: Source, encoder: Encoder) -> Mined:
    """Mine one source in this process; `jobs.training.pipeline` does the same on Ray."""
    index = MemoryIndex(encoder, source.documents)
    questions = Miner(index, source.reserved).mine(source.questions)
    return Mined(source.name, source.digest, source.licence, passage_table(index.passages, source.reserved), questions)
