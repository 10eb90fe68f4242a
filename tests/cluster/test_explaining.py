"""What `--explain` and `fathom audit --replay` print of a reranked question."""

from __future__ import annotations

import json
from typing import Any

from cluster.cli.ask_verbs import candidate_lines, decision_lines
from cluster.cli.records import replay_of
from services.contracts import Caller, Question
from services.query import Steps, search
from services.result import search_json
from tests import fakes
from tests.services.reranking.test_adaptive import PASSAGES, QUESTION, Words, learned, reranker, scope_of


async def asked(price: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the reply of a search with `explain`, its record as it comes back)."""
    log = fakes.MemoryAuditLog()
    steps = Steps(fakes.FakeRetriever(PASSAGES), reranker(Words()), fakes.FakeAnswerer(), log)
    question = Question(QUESTION.text, explain=True)
    found = await search(question, scope_of(learned(price), latency_budget_ms=60_000), steps, Caller("r", "k"))
    return search_json(found), json.loads(json.dumps(log.records[0].facts))


async def test_every_candidate_has_a_line_that_says_why() -> None:
    body, _ = await asked(0.005)
    lines = candidate_lines(body["explain"]["candidates"])
    assert len(lines) == 1 + len(PASSAGES)
    assert "shown; " in lines[1]
    assert "first stage" in lines[1]
    assert any("skipped_confident opinion 0." in line for line in lines)
    whole = decision_lines(body, explain=True)
    assert set(lines[1:]) <= set(whole)
    assert "candidates" in whole[0]
    assert len(decision_lines(body, explain=False)) < 4


async def test_a_replayed_record_is_identical_or_says_what_differs() -> None:
    _, record = await asked(None)
    assert replay_of(record) == {"identical": True, "candidates": len(PASSAGES), "differences": []}
    record["candidates"]["score"][0] += 1
    assert not replay_of(record)["identical"]
