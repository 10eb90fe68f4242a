"""Shadow reranks: drawn by their ids, beside the traffic, in the e-process; an alarm that reaches the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from services import deadline
from services.afterwards import ROOM
from services.contracts import Question
from services.reranking.adaptive import AdaptiveReranker
from services.reranking.certificate import Certificate, Conditions
from services.reranking.shadow import ShadowReranks, ShadowResult, Shown, drawn, watched
from services.reranking.telling import shown_of
from services.retrieval.fusion import FusionProfile, fuse
from tenants.errors import Unavailable
from tenants.scope import TenantScope
from tests import fakes

CERTIFICATE = Certificate(
    group="standard/en",
    price=0.001,
    alpha=0.01,
    delta=0.1,
    n=1_000,
    p_value=0.05,
    risks={"regret": 0.01},
    split="s",
    source="tenant",
    issued_at="2026-11-26T00:00:00+00:00",
    expires_at="2027-02-24T00:00:00+00:00",
    watch=0.02,
    conditions=Conditions({}),
)
PASSAGES = [fakes.passage(number, f"passage {number} about towers and rivers") for number in range(40)]


@dataclass
class Drifts:
    """The control plane's drift, in memory."""

    states: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def change_drift(self, tenant: TenantScope, group: str, change: Any) -> Mapping[str, Any]:
        self.states[group] = change(self.states.get(group))
        return self.states[group]


@dataclass
class Heard:
    """A witness that remembers."""

    results: list[ShadowResult] = field(default_factory=list)

    async def shadowed(self, scope: TenantScope, result: ShadowResult) -> None:
        self.results.append(result)


async def always_idle(scope: TenantScope, reference: str) -> bool:
    return True


def shown(gains: np.ndarray, query_id: str = "q_1", certificate: Certificate | None = CERTIFICATE) -> Shown:
    """Forty candidates in the order of their rows, the first four scored."""
    logits = np.full(40, np.nan, np.float32)
    logits[:4] = 1.0
    candidates = replace(
        asyncio.run(fakes.FakeRetriever(PASSAGES).retrieve(fakes.scope(), Question("towers"))),
        passages=tuple(PASSAGES),
    )
    rows = np.arange(40, dtype=np.int32)
    return Shown(
        query_id, "towers", candidates, rows, rows, logits, "builtin-large", lambda _: gains, "standard/en", certificate
    )


BEST = np.linspace(1, 0, 40)


def test_a_share_is_drawn_by_the_ids_alone():
    ids = [f"q_{number}" for number in range(20_000)]
    assert sum(drawn(one, 0.02) for one in ids) == pytest.approx(400, abs=80)
    assert [drawn(one, 0.02) for one in ids] == [drawn(one, 0.02) for one in ids]
    assert all(drawn(one, 1.0) for one in ids[:100])
    assert not any(drawn(one, 0.0) for one in ids[:100])


def run(offers: list[Shown], *, scope: TenantScope | None = None, **parts: Any) -> tuple[Heard, Any, ShadowReranks]:
    heard, scorer = Heard(), parts.get("scorer") or fakes.FakeScorer()

    async def settled() -> ShadowReranks:
        shadow = ShadowReranks(scorer, parts.get("store") or Drifts(), heard, parts.get("idle") or always_idle)
        with deadline.within(0.001):
            for one in offers:
                shadow.offer(scope or fakes.scope(shadow_rate=1.0), one)
        await shadow.settle()
        return shadow

    return heard, scorer, asyncio.run(settled())


def test_what_was_not_scored_is_scored_and_the_loss_is_told():
    heard, scorer, _ = run([shown(BEST)])
    assert sum(count for _, count in scorer.asked) == 36
    assert {reference for reference, _ in scorer.asked} == {"builtin-large"}
    (result,) = heard.results
    assert (result.query_id, result.pairs, result.certificate) == ("q_1", 36, CERTIFICATE.certificate_id)
    assert result.loss == pytest.approx(0.0, abs=1e-9)


def test_the_questions_deadline_is_not_the_shadows():
    heard, _, _ = run([shown(BEST)])
    assert len(heard.results) == 1, "the offer came within a deadline of a millisecond"


def test_nobody_is_drawn_at_rate_zero():
    heard, scorer, _ = run([shown(BEST)], scope=fakes.scope(shadow_rate=0.0))
    assert (heard.results, scorer.asked) == ([], [])


def test_bad_losses_raise_an_alarm_once_and_a_new_certificate_begins_anew():
    store = Drifts()
    heard, _, _ = run([shown(BEST[::-1].copy(), f"q_{number}") for number in range(30)], store=store)
    assert heard.results[-1].alarmed
    assert store.states["standard/en"]["alarmed_at"] is not None
    newer = replace(CERTIFICATE, price=0.0005)
    run([shown(BEST, certificate=newer)], store=store)
    assert store.states["standard/en"]["alarmed_at"] is None
    assert store.states["standard/en"]["certificate"] == newer.certificate_id


def test_without_a_promise_the_loss_is_told_but_not_held_against_it():
    store = Drifts()
    heard, _, _ = run([shown(BEST[::-1].copy(), certificate=None)], store=store)
    assert (store.states, heard.results[0].certificate) == ({}, None)
    assert heard.results[0].loss > 0.5


def test_it_waits_until_the_scorer_is_idle():
    answers = iter([False, False, True, True, True, True])

    async def later(scope: TenantScope, reference: str) -> bool:
        return next(answers)

    heard, scorer, _ = run([shown(BEST)], idle=later)
    assert len(heard.results) == 1
    assert len(scorer.asked) == 3, "36 pairs in batches of 16"


def test_a_scorer_that_is_gone_costs_only_the_shadow():
    heard, _, _ = run([shown(BEST), shown(BEST, "q_2")], scorer=fakes.FakeScorer(failure=Unavailable("gone")))
    assert heard.results == []


def test_more_than_fit_are_dropped():
    _, _, shadow = run([shown(BEST, f"q_{number}") for number in range(ROOM + 5)])
    assert shadow.dropped == 5


def test_the_process_of_another_certificate_is_begun_anew():
    old = watched(None, CERTIFICATE, 0.5, "t")
    assert (old.n, old.alpha) == (1, 0.02)
    assert watched(old.to_json(), CERTIFICATE, 0.5, "t").n == 2
    assert watched(old.to_json(), replace(CERTIFICATE, n=2_000), 0.5, "t").n == 1


async def test_an_answered_question_knows_its_full_rerank():
    scope, question, retriever = fakes.scope(), Question("towers and rivers"), fakes.FakeRetriever(PASSAGES)
    candidates = await retriever.retrieve(scope, question)
    fusion = fuse(candidates, "hybrid", FusionProfile())
    ranked = await AdaptiveReranker(fakes.FakeScorer()).rerank(scope, question, candidates, fusion)
    told = shown_of("q_1", question.text, candidates, fusion, ranked)
    assert told is not None
    gains = told.gains(np.linspace(-4, 4, len(candidates.passages)).astype(np.float32))
    assert gains.shape == (len(candidates.passages),)
    assert ((gains >= 0) & (gains <= 1)).all()
