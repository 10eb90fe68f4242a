"""Our metrics equal ir-measures (its oracle is trec_eval) to 1e-9: ties, grades, missing queries and documents."""

import numpy as np
import pytest

from jobs.evaluation.metrics import mean, per_query, ranking

ir_measures = pytest.importorskip("ir_measures", reason="install the 'bench' extra")


def random_case(seed):
    rng = np.random.default_rng(seed)
    documents = [f"d{number}" for number in range(40)]
    judgements, run = {}, {}
    for number in range(12):
        query = f"q{number}"
        judged = rng.choice(documents, rng.integers(1, 12), replace=False)
        judgements[query] = {str(document): int(rng.integers(0, 4)) for document in judged}
        if number % 5:  # some queries have no run at all
            found = rng.choice(documents, rng.integers(1, 30), replace=False)
            run[query] = {str(document): float(rng.integers(0, 6)) / 2 for document in found}  # many ties
    return run, judgements


def expected_of(measure, run, judgements):
    rows = ir_measures.iter_calc([ir_measures.parse_measure(measure)], judgements, run)
    return {row.query_id: row.value for row in rows}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("ours", "theirs"), [("ndcg", "nDCG"), ("recall", "R"), ("map", "AP")])
def test_equal_to_ir_measures(seed, ours, theirs):
    run, judgements = random_case(seed)
    for k in (1, 5, 10, 100):
        expected = expected_of(f"{theirs}@{k}", run, judgements)
        found = per_query(run, judgements, ours, k)
        for query in judgements:
            assert found[query] == pytest.approx(expected.get(query, 0.0), abs=1e-9)
        assert mean(run, judgements, ours, k) == pytest.approx(sum(expected.values()) / len(judgements), abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_reciprocal_rank(seed):
    """Without a cutoff RR is trec_eval's; with one, ir-measures takes another tool that breaks ties the other way."""
    run, judgements = random_case(seed)
    untied = {
        query: {document: score + number / 1000 for number, (document, score) in enumerate(scores.items())}
        for query, scores in run.items()
    }
    for measure, k, cases in (("RR", 1000, run), ("RR@1", 1, untied), ("RR@5", 5, untied), ("RR@10", 10, untied)):
        expected = expected_of(measure, cases, judgements)
        found = per_query(cases, judgements, "mrr", k)
        for query in judgements:
            assert found[query] == pytest.approx(expected.get(query, 0.0), abs=1e-9)


def test_ties_fall_by_document_id():
    assert ranking({"a": 1.0, "b": 1.0, "c": 2.0}) == ["c", "b", "a"]


def test_nothing_is_zero():
    assert mean({}, {}, "ndcg", 10) == 0.0
    assert mean({"q": {"d": 1.0}}, {"q": {"d": 0}}, "ndcg", 10) == 0.0
