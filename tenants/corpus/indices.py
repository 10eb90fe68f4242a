"""The indices of a tenant's table: full text on `lexical`, vectors, document ids; built, kept up, and probed.

Which vector index, measured on 2 cores with 50,000 × 384 (`docs/decisions`): none below `FLAT_ROWS`, where reading
all is as fast; IVF_SQ up to `GRAPH_ROWS`, 2 s to build and 4 ms a search against 20 s and 2 ms for IVF_HNSW_SQ,
which pays only beyond. How many partitions a search must read is not guessed: `probe` finds the fewest that reach
`MIN_RECALL` against brute force, and the release carries the number to the readers.

After an append, small deltas are added to each index in milliseconds and merged when there are several; it is
trained anew when the table has outgrown its training fourfold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
from lance.query import MatchQuery

from tenants.errors import IntegrityError

TEXT_INDEX = "lexical_idx"
VECTOR_INDEX = "vector_idx"
DOCUMENT_INDEX = "document_id_idx"

FLAT_ROWS = 10_000
GRAPH_ROWS = 1_000_000
ROWS_PER_PARTITION = 1_000
MAX_DELTAS = 8
ALL_DELTAS = 1_000
OUTGROWN = 4
MAX_FRAGMENTS = 32
MAX_DELETED_SHARE = 0.2

PROBE_ROWS = 64
PROBE_DEPTH = 100
MIN_RECALL = 0.98
REFINE = 2
MIN_TEXT_FOUND = 0.9
TEXT_PROBES = 16
TEXT_DEPTH = 200
MAX_TOKEN_CHARS = 128

_STEMMED = {
    "ar": "Arabic", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fi": "Finnish",
    "fr": "French", "hu": "Hungarian", "it": "Italian", "nl": "Dutch", "no": "Norwegian", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "ta": "Tamil", "tr": "Turkish",
}  # fmt: skip

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """How to search the vectors of a release.

    `kind` flat = read all rows. `probes` partitions of `partitions` are read, the best `refine` × k rows of them
    are compared exactly; `recall` (at `PROBE_DEPTH`, against brute force) was measured before publishing.
    `trained_rows` is the table's size when the partitions were made.
    """

    kind: str
    partitions: int = 0
    probes: int = 0
    refine: int = 0
    recall: float = 1.0
    trained_rows: int = 0

    def to_json(self) -> dict[str, Any]:
        """For `release.profile["vector_index"]`."""
        return asdict(self)


def text_options(languages: Sequence[str]) -> dict[str, Any]:
    """Options of the full-text index: words by ICU, which parts Chinese and Japanese too, folded and lower case.

    One language with a stemmer is stemmed. Stop words stay: BM25 weighs them down by itself, and code, titles and
    other languages need them.
    """
    stemmer = _STEMMED.get(languages[0]) if len(languages) == 1 else None
    return {
        "base_tokenizer": "icu",
        "lower_case": True,
        "ascii_folding": True,
        "stem": stemmer is not None,
        "language": stemmer or "English",
        "remove_stop_words": False,
        "with_position": True,
        "max_token_length": MAX_TOKEN_CHARS,
    }


def refresh(
    dataset: lance.LanceDataset, languages: Sequence[str], before: Mapping[str, Any] | None
) -> tuple[lance.LanceDataset, VectorIndex]:
    """Bring every index up to the dataset's rows, rewriting small or holey files first; gives the new version.

    `before` is the profile entry of the last release on this table. What was built anew is probed; raises
    `IntegrityError` when the text index does not find what it holds.
    """
    if needs_compaction(dataset):
        rewrite(dataset, threshold=0.1)
    names = {index.name for index in dataset.describe_indices()}
    rows = dataset.count_rows()
    if not rows:
        return dataset, VectorIndex("flat")
    known = VectorIndex(**before) if before else VectorIndex("flat")
    _append(dataset, names)
    if TEXT_INDEX not in names:
        build_text(dataset, languages)
    if DOCUMENT_INDEX not in names:
        dataset.create_scalar_index("document_id", "BTREE", name=DOCUMENT_INDEX)
    if _wanted(rows) == "flat" or (VECTOR_INDEX in names and rows <= OUTGROWN * max(known.trained_rows, 1)):
        return dataset, known
    return dataset, build_vectors(dataset)


def rewrite(dataset: lance.LanceDataset, *, threshold: float) -> None:
    """Small files into large ones; those with more than `threshold` of deleted rows without them.

    Lance joins only files that the same indices cover, so the indices' deltas are merged first.
    """
    if dataset.describe_indices():
        dataset.optimize.optimize_indices(num_indices_to_merge=ALL_DELTAS)
    dataset.optimize.compact_files(materialize_deletions_threshold=threshold)


def needs_compaction(dataset: lance.LanceDataset) -> bool:
    """Too many files, or too many rows in them that are deleted."""
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    physical = sum(fragment.physical_rows for fragment in fragments)
    deleted = sum(fragment.num_deletions for fragment in fragments)
    return len(fragments) > MAX_FRAGMENTS or deleted > MAX_DELETED_SHARE * max(physical, 1)


def build_text(dataset: lance.LanceDataset, languages: Sequence[str]) -> None:
    """(Re)build the full-text index and probe it."""
    dataset.create_scalar_index("lexical", "INVERTED", name=TEXT_INDEX, replace=True, **text_options(languages))
    found = text_found(dataset)
    if found < MIN_TEXT_FOUND:
        raise IntegrityError(f"the full-text index finds only {found:.0%} of the rows it holds; run the job again")


def build_vectors(dataset: lance.LanceDataset) -> VectorIndex:
    """(Re)build the vector index and find how much of it a search must read; an index that fails is dropped."""
    rows = dataset.count_rows()
    kind = _wanted(rows)
    if kind == "flat":
        _drop_vectors(dataset)
        return VectorIndex("flat")
    partitions = max(1, rows // ROWS_PER_PARTITION) if kind == "IVF_SQ" else max(1, rows // GRAPH_ROWS)
    dataset.create_index("vector", kind, name=VECTOR_INDEX, metric="cosine", num_partitions=partitions, replace=True)
    index = probe(dataset, VectorIndex(kind, partitions, 0, REFINE, 0.0, rows))
    if index.recall < MIN_RECALL:
        _drop_vectors(dataset)
        return VectorIndex("flat", trained_rows=rows)
    return index


def probe(dataset: lance.LanceDataset, index: VectorIndex) -> VectorIndex:
    """The fewest partitions whose recall at `PROBE_DEPTH` reaches `MIN_RECALL`, else all of them.

    recall = |found ∩ true| / |true| over blends of sampled rows: a row itself would be too easy a question.
    """
    questions = _questions(dataset)
    truth = nearest(dataset, questions, PROBE_DEPTH)
    tried = sorted({min(index.partitions, count) for count in (4, 8, 12, 16, 24, 32, 48, 64, index.partitions)})
    recall, probes = 0.0, tried[0]
    for probes in tried:
        recall = _recall(dataset, questions, truth, probes)
        if recall >= MIN_RECALL:
            break
    return replace(index, probes=probes, recall=round(recall, 4))


def nearest(dataset: lance.LanceDataset, questions: Float32, depth: int) -> list[set[int]]:
    """Row ids of the `depth` nearest rows by cosine, by brute force; memory is one batch of rows."""
    best = np.full((len(questions), 0), -np.inf, np.float32)
    ids = np.zeros((len(questions), 0), np.int64)
    for batch in dataset.to_batches(columns=["vector"], with_row_id=True, batch_size=8_192):
        vectors = _matrix(batch["vector"])
        best = np.hstack([best, questions @ vectors.T])
        ids = np.hstack(
            [ids, np.broadcast_to(batch["_rowid"].to_numpy().astype(np.int64), (len(questions), len(vectors)))]
        )
        order = np.argsort(-best, axis=1)[:, :depth]
        best, ids = np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)
    return [set(row.tolist()) for row in ids]


def text_found(dataset: lance.LanceDataset) -> float:
    """Share of sampled rows that a search for their own words finds; 1 when no sampled row has words."""
    rows = dataset.take(_sample(dataset.count_rows(), TEXT_PROBES), columns=["lexical", "chunk_id"]).to_pylist()
    asked = [row for row in rows if sum(char.isalnum() for char in row["lexical"][:200]) > 20]
    hits = 0
    for row in asked:
        query = MatchQuery(row["lexical"][:400], "lexical")
        found = dataset.to_table(full_text_query=query, columns=["chunk_id", "_score"], limit=TEXT_DEPTH)
        hits += row["chunk_id"] in set(found["chunk_id"].to_pylist())
    return hits / len(asked) if asked else 1.0


def _drop_vectors(dataset: lance.LanceDataset) -> None:
    if any(index.name == VECTOR_INDEX for index in dataset.describe_indices()):
        dataset.drop_index(VECTOR_INDEX)


def _wanted(rows: int) -> str:
    if rows < FLAT_ROWS:
        return "flat"
    return "IVF_SQ" if rows < GRAPH_ROWS else "IVF_HNSW_SQ"


def _append(dataset: lance.LanceDataset, names: set[str]) -> None:
    """Add the rows that no index holds yet; many small deltas become one."""
    if not names:
        return
    statistics = [dataset.stats.index_stats(name) for name in names]
    if max(int(entry["num_indices"]) for entry in statistics) > MAX_DELTAS:
        dataset.optimize.optimize_indices(num_indices_to_merge=ALL_DELTAS)
    elif any(int(entry["num_unindexed_rows"]) for entry in statistics):
        dataset.optimize.optimize_indices(num_indices_to_merge=0)


def _recall(dataset: lance.LanceDataset, questions: Float32, truth: list[set[int]], probes: int) -> float:
    hits = 0
    for question, true in zip(questions, truth, strict=True):
        search = {"column": "vector", "q": question, "k": PROBE_DEPTH, "nprobes": probes}
        found = dataset.to_table(nearest={**search, "refine_factor": REFINE}, columns=["_distance"], with_row_id=True)
        hits += len(true & set(found["_rowid"].to_pylist()))
    return hits / max(1, sum(len(true) for true in truth))


def _questions(dataset: lance.LanceDataset) -> Float32:
    """(PROBE_ROWS, d) unit vectors, each between two sampled rows and nearer to the first."""
    rows = _sample(dataset.count_rows(), 2 * PROBE_ROWS)
    vectors = _matrix(dataset.take(rows, columns=["vector"])["vector"].combine_chunks())
    first, second = vectors[0::2], vectors[1::2]
    blend = (0.8 * first[: len(second)] + 0.2 * second).astype(np.float32)
    unit: Float32 = blend / np.maximum(np.linalg.norm(blend, axis=1, keepdims=True), 1e-12)
    return unit


def _sample(rows: int, count: int) -> list[int]:
    """`count` row offsets, the same for the same table size; seeded, so that a probe can be repeated."""
    chosen = np.random.default_rng(rows).choice(rows, size=min(rows, count), replace=False)
    return [int(row) for row in chosen]


def _matrix(column: Any) -> Float32:
    values: Float32 = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return values
