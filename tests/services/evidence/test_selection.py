"""What is shown and why the rest is not, on candidates written out by hand."""

from __future__ import annotations

import numpy as np

from services.contracts import Candidates, Evidence, Passage, Question, Ranked, Span
from services.evidence.selection import TOKEN_BUDGET, page, select
from tests import fakes


def candidates_of(passages: list[Passage]) -> Candidates:
    n = len(passages)
    ranks = np.arange(1, n + 1, dtype=np.int32)
    vectors = fakes.embed([one.text for one in passages]) if passages else np.zeros((0, 64), np.float32)
    return Candidates(
        tuple(passages),
        np.linspace(0.9, 0.1, n, dtype=np.float32),
        np.zeros(n, np.float32),
        ranks,
        np.zeros(n, np.int32),
        vectors,
        fakes.embed(["question"])[0],
    )


def ranked(n: int) -> Ranked:
    order, none = np.arange(n, dtype=np.int32), np.full(n, np.nan, np.float32)
    return Ranked(order, np.linspace(1, 0, n, dtype=np.float32), none, none, "unavailable", "", None)


def run(choose: object, passages: list[Passage], question: Question | None = None, **config: object) -> Evidence:
    scope = fakes.scope(**config)
    return choose(question or Question("q"), scope, candidates_of(passages), ranked(len(passages)))


def test_a_page_is_the_first_top_k() -> None:
    found = run(page, [fakes.passage(n, f"text {n}") for n in range(5)], Question("q", top_k=2))
    assert found.rows == (0, 1)
    assert found.scores == (1.0, 0.75)
    assert set(found.dropped.values()) == {"rank"}


def test_grouping_keeps_the_best_chunk_of_each_document() -> None:
    passages = [fakes.passage(n, f"text {n}", document) for n, document in enumerate("aabab")]
    found = run(page, passages, Question("q", group_by="document"))
    assert found.rows == (0, 2)
    assert set(found.dropped.values()) == {"group_by"}


def test_no_candidates_give_no_evidence() -> None:
    assert run(select, []) == Evidence((), (), (), {})


def test_evidence_stops_at_the_tenants_number() -> None:
    passages = [fakes.passage(n, f"word{n} other{n} thing{n}") for n in range(9)]
    assert len(run(select, passages, answer={"evidence": 4}).rows) == 4


def test_a_near_copy_is_a_duplicate_and_a_common_topic_is_not() -> None:
    text = "the quick brown fox jumps over the lazy dog near the old river bank while it rains all day long here"
    other = "the lazy dog sleeps near the river bank and the fox is quick"
    found = run(select, [fakes.passage(0, text), fakes.passage(1, text + " now"), fakes.passage(2, other)])
    assert found.rows == (0, 2)
    assert list(found.dropped.values()) == ["duplicate"]


def test_an_overlapping_chunk_of_the_same_document_says_nothing_new() -> None:
    first = fakes.passage(0, "alpha beta gamma", "d", span=Span(0, 100))
    second = fakes.passage(1, "delta epsilon", "d", span=Span(30, 110))
    third = fakes.passage(2, "zeta eta", "d", span=Span(90, 190))
    assert run(select, [first, second, third]).rows == (0, 2)


def test_one_document_cannot_fill_the_evidence() -> None:
    passages = [fakes.passage(n, f"w{n} x{n} y{n}", "d", span=Span(n * 100, n * 100 + 90)) for n in range(5)]
    found = run(select, passages)
    assert found.rows == (0, 1, 2)
    assert set(found.dropped.values()) == {"document_cap"}


def test_what_does_not_fit_the_budget_is_left_out_but_the_first_always_fits() -> None:
    passages = [fakes.passage(n, f"w{n} x{n}", tokens=tokens) for n, tokens in enumerate((TOKEN_BUDGET, 1))]
    assert run(select, passages).rows == (0,)
    assert list(run(select, passages).dropped.values()) == ["token_budget"]
