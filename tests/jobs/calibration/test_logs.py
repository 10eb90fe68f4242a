"""The log of full reranks: what goes into Parquet comes out, and a document counts once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.calibration.logs import Logged, read_log, write_log
from tests.jobs.calibration.logged import logged


def same(left: Logged, right: Logged) -> bool:
    plain = ("query_id", "source", "language", "documents", "chunks", "ideal")
    columns = left.facts.columns()
    return (
        all(getattr(left, name) == getattr(right, name) for name in plain)
        and all(np.array_equal(columns[name], column) for name, column in right.facts.columns().items())
        and left.logits.keys() == right.logits.keys()
        and all(np.array_equal(left.logits[role], right.logits[role], equal_nan=True) for role in left.logits)
    )


def test_what_is_written_is_read(tmp_path: Path):
    one, other = logged(1), logged(2, labels=False)
    one.logits["large"][3] = np.nan
    del other.logits["small"]
    write_log(tmp_path / "log.parquet", [one, other])
    back = read_log(tmp_path / "log.parquet")
    assert len(back) == 2
    assert same(back[0], one)
    assert same(back[1], other)
    assert np.array_equal(back[0].grades, one.grades)
    assert back[1].grades is None
    assert (back[0].labelled, back[1].labelled) == (True, False)


def test_a_document_counts_at_its_best_chunk():
    one = logged(1)
    one.grades[:] = 0
    one.grades[[2, 3]] = 1  # both chunks of d1
    few = Logged(**{**{name: getattr(one, name) for name in Logged.__dataclass_fields__}, "ideal": 1.0})
    assert few.quality([2, 3, 0]) == pytest.approx(1.0)
    assert few.quality([0, 1, 2, 3]) == pytest.approx(1 / np.log2(3)), "both chunks of d0 are one place"
    assert few.quality([0, 4]) == 0.0
