"""A small corpus in memory behind `contracts.Retriever`: exact cosine and BM25, for measuring what comes after search.

Chunks and vectors come from the code that indexes; the lists are exact, so that an answerer's figures do not
depend on an index. Not for serving: every question scans everything.

    BM25(q, d) = Σ idf(t) · tf · (k + 1) / (tf + k · (1 − b + b · |d| / mean |d|)),  k = 1.2, b = 0.75
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.indexing.splitting import TokenSplitter
from services.contracts import Candidates, Float32, Int32, Passage, Question, Span
from services.embedding.encoder import Encoder
from services.evidence.text import content
from services.retrieval.lexical import lexical
from tenants.config import Chunking
from tenants.scope import TenantScope

DEPTH = 100
_K, _B = 1.2, 0.75

Float64 = npt.NDArray[np.float64]


class MemoryIndex:
    """`documents` as in the BEIR layout: {_id, title, text}. `without` hides documents, as if never indexed."""

    def __init__(
        self,
        encoder: Encoder,
        documents: Sequence[Mapping[str, Any]],
        embedded: tuple[Sequence[Passage], Float32] | None = None,
    ) -> None:
        """`embedded`: the documents' chunks and their (n, d) float32 unit vectors, where they are there already."""
        self._encoder = encoder
        passages = embedded[0] if embedded else passages_of(encoder, documents)
        texts = lexical_texts(passages)
        self.passages = tuple(passages)
        self._vectors = embedded[1] if embedded else encoder.encode(texts)
        self._bm25 = _Bm25(texts)
        self._rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, one in enumerate(self.passages):
            self._rows[one.document_id].append(row)
        self.without: Collection[str] = ()

    async def embed(self, model: str, texts: Sequence[str]) -> Float32:
        """See `contracts.Retriever`; `model` is the encoder that the index was made with, whatever it says."""
        return self._encoder.encode(texts)

    def encode_queries(self, texts: Sequence[str]) -> Float32:
        """(n, d) float32 unit vectors of questions, in one go: many times faster than one after another."""
        prefix = self._encoder.info.recipe.query_prefix
        return self._encoder.encode([prefix + text for text in texts])

    async def retrieve(self, scope: TenantScope, question: Question) -> Candidates:
        """See `contracts.Retriever`; filters and collections are not kept here."""
        return self.candidates(question.text, self._encoder.encode_query(question.text))

    def candidates(self, text: str, query: Float32) -> Candidates:
        """Both legs' lists for a question whose (d,) unit vector is already there."""
        hidden = [row for document in self.without for row in self._rows.get(document, ())]
        dense, sparse = self._vectors @ query, self._bm25.scores(text)
        dense_list, sparse_list = _best(dense, hidden), _best(sparse, hidden)
        sparse_list = sparse_list[sparse[sparse_list] > 0]
        rows = np.array(list(dict.fromkeys([*dense_list.tolist(), *sparse_list.tolist()])), dtype=np.int64)
        sparse_rank = _rank_of(rows, sparse_list)
        return Candidates(
            passages=tuple(self.passages[row] for row in rows),
            dense=dense[rows].astype(np.float32),
            sparse=np.where(sparse_rank > 0, sparse[rows], 0).astype(np.float32),
            dense_rank=_rank_of(rows, dense_list),
            sparse_rank=sparse_rank,
            vectors=self._vectors[rows],
            query_vector=query,
        )


def lexical_texts(passages: Sequence[Passage]) -> list[str]:
    """What both legs read of each chunk."""
    return [lexical(one.title, one.heading, one.text) for one in passages]


def passages_of(encoder: Encoder, documents: Sequence[Mapping[str, Any]]) -> list[Passage]:
    """Documents {_id, title, text} as chunks, cut as indexing cuts them; ids are numbers of this list."""
    splitter = TokenSplitter(Chunking(), encoder.tokenizer_json)
    texts = [str(document["text"]) for document in documents]
    found: list[Passage] = []
    for document, text, pieces in zip(documents, texts, splitter.split(texts, ["text"] * len(texts)), strict=True):
        for ordinal, piece in enumerate(pieces):
            found.append(
                Passage(
                    chunk_id=f"c_{len(found)}",
                    document_id=str(document["_id"]),
                    title=str(document.get("title") or ""),
                    heading="",
                    text=text[piece.start : piece.end],
                    collection="default",
                    ordinal=ordinal,
                    span=Span(piece.start, piece.end),
                    url=None,
                    updated_at=None,
                    metadata={},
                    tokens=piece.tokens,
                )
            )
    return found


class _Bm25:
    """Postings per term: rows (p,) int32 and their finished scores (p,) float32."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._count = len(texts)
        counts = [Counter(content(text)) for text in texts]
        lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)
        norms = _K * (1 - _B + _B * lengths / max(1.0, float(lengths.mean()) if len(lengths) else 1.0))
        postings: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for row, count in enumerate(counts):
            for term, frequency in count.items():
                postings[term].append((row, frequency))
        self._postings = {term: self._scored(pairs, norms) for term, pairs in postings.items()}

    def _scored(self, pairs: list[tuple[int, int]], norms: Float64) -> tuple[Int32, Float32]:
        rows = np.array([row for row, _ in pairs], dtype=np.int32)
        frequency = np.array([frequency for _, frequency in pairs], dtype=np.float64)
        idf = np.log1p((self._count - len(pairs) + 0.5) / (len(pairs) + 0.5))
        return rows, (idf * frequency * (_K + 1) / (frequency + norms[rows])).astype(np.float32)

    def scores(self, text: str) -> Float32:
        """(n,) float32."""
        total = np.zeros(self._count, dtype=np.float32)
        for term in set(content(text)):
            if term in self._postings:
                rows, values = self._postings[term]
                total[rows] += values
        return total


def _best(scores: Float32, hidden: Sequence[int]) -> npt.NDArray[np.int64]:
    shown = scores.copy()
    shown[list(hidden)] = -np.inf
    order = np.argsort(-shown, kind="stable")[:DEPTH]
    return order[np.isfinite(shown[order])]


def _rank_of(rows: npt.NDArray[np.int64], ordered: npt.NDArray[np.int64]) -> Int32:
    rank = {row: place for place, row in enumerate(ordered.tolist(), start=1)}
    return np.array([rank.get(row, 0) for row in rows.tolist()], dtype=np.int32)
