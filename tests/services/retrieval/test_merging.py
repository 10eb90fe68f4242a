"""Several corpora's candidates as one list."""

import math

import numpy as np

from services.contracts import Candidates
from services.retrieval.merging import merged
from tests.fakes import passage


def part(names, dense, sparse, dense_rank, sparse_rank):
    vectors = np.eye(len(names), 4, dtype=np.float32)
    return Candidates(
        passages=tuple(passage(0, "text", chunk_id=name) for name in names),
        dense=np.array(dense, np.float32),
        sparse=np.array(sparse, np.float32),
        dense_rank=np.array(dense_rank, np.int32),
        sparse_rank=np.array(sparse_rank, np.int32),
        vectors=vectors,
        query_vector=np.ones(4, np.float32),
        timings_ms={"search": float(len(names))},
    )


OWN = part(["a", "c"], [0.9, 0.2], [3.0, 2.0], [1, 2], [1, 2])
SHARED = part(["b", "d"], [0.5, 0.1], [0.0, 4.0], [1, 0], [0, 1])


def test_one_part_stays_as_it_is():
    assert merged([(OWN, 10)], 100) is OWN


def test_lists_are_ranked_together_and_rows_stand_in_the_order_of_their_ids():
    found = merged([(OWN, 10), (SHARED, 10)], 100)
    assert [one.chunk_id for one in found.passages] == ["a", "b", "c", "d"]
    assert found.dense_rank.tolist() == [1, 2, 3, 0]
    assert found.sparse_rank.tolist() == [2, 0, 3, 1]
    assert found.sparse.tolist() == [3.0, 0.0, 2.0, 4.0]
    assert found.vectors.shape == (4, 4)
    assert found.timings_ms == {"search": 2.0}


def test_each_list_is_cut_and_who_stands_in_none_is_dropped():
    found = merged([(OWN, 10), (SHARED, 10)], 1)
    assert [one.chunk_id for one in found.passages] == ["a", "d"]
    assert found.dense_rank.tolist() == [1, 0]
    assert found.sparse_rank.tolist() == [0, 1]
    assert found.sparse.tolist() == [0.0, 4.0]


def test_bm25_of_a_small_corpus_is_brought_to_the_scale_of_the_largest():
    found = merged([(OWN, 1_000), (SHARED, 10)], 100)
    factor = math.log(1 + 999.5 / 1.5) / math.log(1 + 9.5 / 1.5)
    assert np.isclose(found.sparse[3], 4.0 * factor)
    assert found.sparse[0] == 3.0
