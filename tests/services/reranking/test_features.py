"""The free features: values by hand, one leg alone, the same whatever the order of candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from services.contracts import Candidates
from services.reranking.features import QUESTION, ROWS, facts_of, overlap_at_all_depths
from services.retrieval.fusion import FusionProfile, fuse
from tests import fakes

TEXTS = ["the tower was finished", "a tower of stone", "bananas are yellow", "the tower was finished", "rivers"]


def found(texts: list[str] = TEXTS, question: str = "When was the tower finished in 1889?") -> Candidates:
    passages = [fakes.passage(n, text, token_ids=bytes(4 * (n + 5))) for n, text in enumerate(texts)]
    vectors, query = fakes.embed(texts), fakes.embed([question])[0]
    dense = vectors @ query
    sparse = np.array([3.0, 1.5, 0.0, 3.0, 0.0][: len(texts)], np.float32)
    order = np.argsort(-dense, kind="stable")
    rank = np.empty(len(texts), np.int32)
    rank[order] = np.arange(1, len(texts) + 1)
    sparse_rank = np.array([1, 3, 0, 2, 0][: len(texts)], np.int32)
    return Candidates(tuple(passages), dense.astype(np.float32), sparse, rank, sparse_rank, vectors, query)


def named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def test_rows_by_hand() -> None:
    candidates = found()
    fusion = fuse(candidates, "hybrid", FusionProfile())
    facts = facts_of("When was the tower finished in 1889?", candidates, fusion)
    second = named(ROWS, facts.rows[1])
    assert second["fused"] == fusion.score[1]
    assert second["dense"] == candidates.dense[1]
    assert second["sparse"] == 0.5
    assert second["depth"] == pytest.approx(np.log2(1 + fusion.rank[1]))
    assert second["sparse_depth"] == pytest.approx(2.0)
    assert second["both"] == 1
    assert named(ROWS, facts.rows[2])["sparse_depth"] == pytest.approx(np.log2(5))  # one behind the list's end
    assert second["length"] == pytest.approx(np.log2(7))  # six stored ids
    repeats = [named(ROWS, row)["repeats"] for row in facts.rows]
    assert sorted((repeats[0], repeats[3])) == [0, 1]  # the same text twice: the worse one repeats
    assert facts.tokens[0] == 5 + int(1.4 * 7) + 3
    assert not facts.flagged.any()


def test_the_question_by_hand() -> None:
    candidates = found()
    fusion = fuse(candidates, "hybrid", FusionProfile())
    asked = named(QUESTION, facts_of("When was the tower finished in 1889?", candidates, fusion).question)
    best = np.sort(fusion.score)[::-1]
    assert asked["margin_1"] == pytest.approx(best[0] - best[1])
    assert asked["margin_5"] == pytest.approx(best[0] - best[4])  # fewer than six candidates: the last
    assert asked["wig"] == pytest.approx(0, abs=1e-6)
    assert asked["cosine"] == pytest.approx(float(candidates.dense.max()))
    assert asked["words"] == pytest.approx(3.0)
    assert asked["codes"] == pytest.approx(1 / 7)
    assert asked["bm25"] == pytest.approx(np.log1p(3 / 7))


def test_rank_biased_overlap() -> None:
    same = np.arange(1, 11, dtype=np.int32)
    assert overlap_at_all_depths(same, same) == pytest.approx(1)
    assert overlap_at_all_depths(same, np.zeros(10, np.int32)) == 0
    # Two of two in the other order: overlap 0 at depth 1, 1 at depth 2, weights 1 and .9.
    assert overlap_at_all_depths(np.array([1, 2]), np.array([2, 1])) == pytest.approx(0.9 / 1.9)


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_one_leg_alone_has_finite_features(mode: str) -> None:
    candidates = found()
    blank = np.zeros(5, np.int32)
    one = replace(candidates, sparse_rank=blank, sparse=np.zeros(5, np.float32)) if mode == "dense" else candidates
    facts = facts_of("tower", one, fuse(one, mode, FusionProfile()))
    assert np.isfinite(facts.rows).all()
    assert np.isfinite(facts.question).all()


@pytest.mark.parametrize("count", [1, 2])
def test_few_candidates(count: int) -> None:
    candidates = found(TEXTS[:count])
    facts = facts_of("", candidates, fuse(candidates, "hybrid", FusionProfile()))
    assert np.isfinite(facts.rows).all()
    assert np.isfinite(facts.question).all()


def test_the_order_of_candidates_does_not_matter() -> None:
    candidates = found()
    moved = np.array([3, 0, 4, 1, 2])
    other = Candidates(
        tuple(candidates.passages[row] for row in moved), candidates.dense[moved], candidates.sparse[moved],
        candidates.dense_rank[moved], candidates.sparse_rank[moved], candidates.vectors[moved], candidates.query_vector,
    )  # fmt: skip
    first, second = (facts_of("tower", one, fuse(one, "hybrid", FusionProfile())) for one in (candidates, other))
    # The same text twice has the same score; which of both comes first is the candidates' order.
    kept = [place for place, row in enumerate(moved) if row not in (0, 3)]
    np.testing.assert_allclose(second.rows[kept], first.rows[moved[kept]], rtol=1e-5)
    np.testing.assert_allclose(second.question, first.question, rtol=1e-5)
