"""An audit record redoes its order to the last bit, and a changed one is found out."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from services.audit.replay import replay
from services.contracts import Caller, Question
from services.query import Steps, search
from services.reranking.first_stage import FirstStage
from services.result import search_json
from tests import fakes
from tests.services.reranking.test_adaptive import PASSAGES, QUESTION, Words, learned, reranker, scope_of


async def recorded(serving: Any, scope: Any, question: Question = QUESTION) -> dict[str, Any]:
    """The facts as they come back from the log: through JSON."""
    log = fakes.MemoryAuditLog()
    steps = Steps(fakes.FakeRetriever(PASSAGES), serving, fakes.FakeAnswerer(), log)
    await search(question, scope, steps, Caller("r", "k"))
    facts: dict[str, Any] = json.loads(json.dumps(log.records[0].facts, allow_nan=False))
    return facts


@pytest.mark.parametrize("price", [0.0, 0.001, 0.02, 0.5])
@pytest.mark.parametrize("wish", ["auto", "always", "never"])
async def test_every_record_redoes_its_order(price: float, wish: Any) -> None:
    question = Question(QUESTION.text, rerank=wish)
    facts = await recorded(reranker(Words()), scope_of(learned(price), latency_budget_ms=60_000), question)
    redone = replay(facts)
    assert redone.differences == ()
    assert list(redone.order) == facts["candidates"]["chunk_id"]


async def test_records_of_a_platform_without_a_model_and_of_the_first_format() -> None:
    facts = await recorded(FirstStage(), scope_of())
    assert facts["policy"] is None
    assert replay(facts).identical
    old = {**facts, "format": 1}
    del old["policy"], old["fusion"]["version"]
    assert replay(old).identical


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ("dense", "fused"),
        ("fused", "fused"),
        ("fused_rank", "fused_rank"),
        ("large", "large"),
        ("expected", "ranked"),
        ("score", "score"),
    ],
)
async def test_a_changed_column_is_found_out(column: str, what: str) -> None:
    facts = await recorded(reranker(Words()), scope_of(learned(0.0), latency_budget_ms=60_000))
    changed = copy.deepcopy(facts)
    values = changed["candidates"][column]
    place = next(n for n, value in enumerate(values) if value is not None)
    values[place] = 7 if column == "fused_rank" and values[place] != 7 else values[place] + 0.125
    redone = replay(changed)
    assert any(what in difference for difference in redone.differences)


async def test_a_record_says_what_was_decided_and_why() -> None:
    facts = await recorded(reranker(Words()), scope_of(learned(0.02), latency_budget_ms=60_000))
    policy, columns = facts["policy"], facts["candidates"]
    assert facts["format"] == 2
    assert policy["price"] == 0.02
    assert policy["certificate"] is None or policy["certificate"]["n"] == 1200
    assert set(policy["models"]) == {"small", "large"}
    assert policy["stop"] in ("worth", "complete")
    for step in policy["steps"]:
        assert len(step["at"]) == len(step["logits"]) == len(step["cached"])
        assert [columns[step["kind"]][place] for place in step["at"]] == step["logits"]
    assert set(columns["decision"]) <= {"skipped_confident", "scored_small", "escalated", "cached", "flagged"}
    assert len({len(column) for column in columns.values()}) == 1
    assert {"margin_1", "rbo", "entropy"} <= set(facts["features"])


async def test_explain_shows_what_the_audit_keeps() -> None:
    log = fakes.MemoryAuditLog()
    steps = Steps(fakes.FakeRetriever(PASSAGES), reranker(Words()), fakes.FakeAnswerer(), log)
    question = Question(QUESTION.text, explain=True)
    body = search_json(await search(question, scope_of(learned(0.5)), steps, Caller("r", "k")))
    told = json.loads(json.dumps(body["explain"], allow_nan=False))
    for part in ("fusion", "policy", "candidates", "features"):
        assert told[part] == json.loads(json.dumps(log.records[0].facts[part]))
    assert body["results"][0]["why"]["decision"] == told["candidates"]["decision"][0]
