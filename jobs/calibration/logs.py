"""Full reranks on disk: what one question's first stage knew and what both cross-encoders said of every candidate.

One Parquet row a question. From such a log every policy replays offline, so a model is asked once per pair, however
many policies are compared. No text: ids, figures and grades.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from services.contracts import Float32
from services.reranking.facts import ROLES, Facts, Role
from services.reranking.losses import K, ndcg

LOG_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("question", pa.list_(pa.float32())),
        ("rows", pa.list_(pa.float32())),
        ("fused", pa.list_(pa.float32())),
        ("rank", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.int32())),
        ("flagged", pa.list_(pa.bool_())),
        ("small", pa.list_(pa.float32())),
        ("large", pa.list_(pa.float32())),
        ("documents", pa.list_(pa.string())),
        ("chunks", pa.list_(pa.string())),
        ("grades", pa.list_(pa.float32())),
        ("ideal", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Logged:
    """One question, n candidates in the order of `facts`.

    logits   {role: (n,) float32 raw, NaN = not scored}; a role that was not served is absent
    grades   (n,) float32 grade ≥ 0 of the row's document; None = the question has no labels
    ideal    DCG@10 of all judged documents in their best order, those that were not retrieved included; 0 unlabelled
    source   the data set or tenant that the question is of
    """

    query_id: str
    source: str
    language: str
    facts: Facts
    logits: Mapping[Role, Float32]
    documents: tuple[str, ...]
    chunks: tuple[str, ...]
    grades: Float32 | None = None
    ideal: float = 0.0

    @property
    def labelled(self) -> bool:
        """Whether a regret can be computed."""
        return self.grades is not None and self.ideal > 0

    def quality(self, order: npt.ArrayLike, k: int = K) -> float:
        """nDCG@k of candidate rows in this order, a document counted at its best chunk; needs labels."""
        assert self.grades is not None
        best: dict[str, int] = {}
        for row in np.asarray(order).tolist():
            best.setdefault(self.documents[row], row)
        return ndcg(list(best.values())[:k], self.grades, self.ideal, k)


def write_log(path: Path, log: Iterable[Logged]) -> None:
    """Replace the file; compressed."""
    pq.write_table(to_arrow(log), path, compression="zstd")


def read_log(path: Path) -> list[Logged]:
    """Every question of one file, in its order."""
    return from_arrow(pq.read_table(path, schema=LOG_SCHEMA))


def to_arrow(log: Iterable[Logged]) -> pa.Table:
    """One row a question."""
    return pa.Table.from_pylist([_row(one) for one in log], LOG_SCHEMA)


def from_arrow(table: pa.Table) -> list[Logged]:
    """What `to_arrow` made; batches of it in any order will do."""
    return [_logged(row) for row in table.to_pylist()]


def _row(one: Logged) -> dict[str, Any]:
    row: dict[str, Any] = {name: np.ravel(column).tolist() for name, column in one.facts.columns().items()}
    row |= {role: logits.tolist() for role, logits in one.logits.items()}
    row |= {"query_id": one.query_id, "source": one.source, "language": one.language, "ideal": one.ideal}
    row |= {"documents": list(one.documents), "chunks": list(one.chunks)}
    return row | {"grades": None if one.grades is None else one.grades.tolist()}


def _logged(row: Mapping[str, Any]) -> Logged:
    given: Sequence[Role] = [role for role in ROLES if row[role] is not None]
    return Logged(
        query_id=row["query_id"],
        source=row["source"],
        language=row["language"],
        facts=Facts.from_columns(row),
        logits={role: np.array([np.nan if x is None else x for x in row[role]], np.float32) for role in given},
        documents=tuple(row["documents"]),
        chunks=tuple(row["chunks"]),
        grades=None if row["grades"] is None else np.array(row["grades"], np.float32),
        ideal=row["ideal"],
    )
