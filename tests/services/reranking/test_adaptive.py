"""The loop that serves, with a scorer that says what a test wants: overrides, budgets, failures, certificates."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from services import deadline
from services.contracts import CrossEncoderFacts, Passage, Question, Ranked, Scored
from services.evidence.text import content
from services.reranking.adaptive import AdaptiveReranker
from services.reranking.certificate import Certificate, Conditions
from services.reranking.profile import Profile, model_name, neutral
from services.retrieval.fusion import FusionProfile, fuse
from tenants.errors import DeadlineExceeded, FathomError, Overloaded, Unavailable
from tenants.scope import TenantScope
from tests import fakes

NOW = datetime(2026, 6, 1, tzinfo=UTC)
WORDS = ["tower", "bridge", "canal", "harbour", "castle", "market", "river", "garden", "palace", "tunnel"]
PASSAGES = [
    fakes.passage(n, f"The {WORDS[n % 10]} number {n} stands near the {WORDS[(n * 7) % 10]} of the town.")
    for n in range(60)
]
QUESTION = Question("Where does the tower near the bridge stand?")


@dataclass
class Words:
    """PairScorer: a logit per shared word; suffices because only what the loop does with logits matters here."""

    calls: list[tuple[str, int]] = field(default_factory=list)
    failures: dict[int, FathomError] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    languages: tuple[str, ...] = ()
    hangs: bool = False

    async def facts(self, scope: TenantScope, reference: str) -> CrossEncoderFacts:
        if reference in self.absent:
            raise Unavailable(f"{reference} is not there")
        cost = 1.0 if reference == "builtin-large" else 0.3
        return CrossEncoderFacts(
            reference, f"rev-{reference}", "int8", "t", (256,), (cost,), (cost,), self.languages
        )  # fmt: skip

    async def score(
        self, scope: TenantScope, reference: str, query: str, passages: Sequence[Passage], partial: bool = False
    ) -> Scored:
        number = len(self.calls)
        self.calls.append((reference, len(passages)))
        if self.hangs:
            async with deadline.enforced():
                await asyncio.Event().wait()
        if number in self.failures:
            raise self.failures[number]
        asked = set(content(query))
        logits = np.array([4.0 * len(asked & set(content(one.text))) - 8 for one in passages], np.float32)
        return Scored(logits, np.zeros(len(passages), np.bool_), 1.0, f"rev-{reference}")


def scope_of(profile: Profile | None = None, **rerank: Any) -> TenantScope:
    return replace(fakes.scope(rerank=rerank), calibration=None if profile is None else profile.to_json())


def learned(price: float | None = None, **changes: Any) -> Profile:
    """A profile of the scorer's models, with a certificate for standard questions when a price is given."""
    models = {role: f"rev-builtin-{role}" for role in ("small", "large")}
    groups = {}
    if price is not None:
        names = {}
        for role in ("small", "large"):
            facts = CrossEncoderFacts(f"builtin-{role}", models[role], "int8", "t", (), (), ())
            names[role] = model_name(facts)
        certificate = Certificate(
            "standard/en", price, 0.01, 0.1, 1200, 0.01, {"regret": 0.01}, "digest", "tenant",
            "2026-05-01T00:00:00+00:00", "2026-08-01T00:00:00+00:00", 0.02, Conditions(names),
        )  # fmt: skip
        groups["standard/en"] = certificate
    return replace(neutral(), **{"blend": 0.5, "models": models, "groups": groups, "source": "tenant", **changes})


def reranker(scorer: Any, **given: Any) -> AdaptiveReranker:
    """At a time when the certificates of `learned` hold."""
    return AdaptiveReranker(scorer, now=lambda: NOW, **given)


async def rerank(scorer: Any, scope: TenantScope, question: Question = QUESTION, **given: Any) -> Ranked:
    found = await fakes.FakeRetriever(PASSAGES).retrieve(scope, question)
    fusion = fuse(found, "hybrid", FusionProfile())
    return await reranker(scorer, **given).rerank(scope, question, found, fusion)


async def test_always_scores_everything_with_the_large_model_without_a_budget() -> None:
    scorer = Words()
    ranked = await rerank(scorer, scope_of(latency_budget_ms=1), replace(QUESTION, rerank="always"))
    assert scorer.calls == [("builtin-large", 60)]
    assert (ranked.decision, ranked.pairs, ranked.degraded) == ("full", 60, ())
    assert ranked.reason == "Reranking was asked for: 60 of 60 candidates were scored."
    assert ranked.trace is not None
    assert math.isinf(ranked.trace.terms.limits.budget)
    assert np.isfinite(ranked.rerank).all()
    assert ranked.order[0] in np.flatnonzero(ranked.rerank == ranked.rerank.max())
    assert np.isnan(ranked.probability).all()  # nobody calibrated these models


async def test_never_asks_for_no_pair() -> None:
    scorer = Words()
    ranked = await rerank(scorer, scope_of(), replace(QUESTION, rerank="never"))
    assert (scorer.calls, ranked.decision, ranked.trace) == ([], "skipped", None)


async def test_depth_caps_the_candidates_and_voids_the_certificate() -> None:
    ranked = await rerank(Words(), scope_of(learned(0.0)), replace(QUESTION, rerank="always", depth=7))
    assert (ranked.pairs, ranked.certificate) == (7, None)
    assert ranked.decision == "full"
    assert np.isfinite(ranked.rerank).sum() == 7


async def test_without_a_certificate_everything_is_scored_and_the_answer_says_so() -> None:
    ranked = await rerank(Words(), scope_of(latency_budget_ms=60_000))
    assert (ranked.decision, ranked.certificate) == ("full", None)
    assert "no certificate" in ranked.reason


async def test_a_certificate_brings_its_price_and_its_name() -> None:
    profile = learned(0.02)
    ranked = await rerank(Words(), scope_of(profile, latency_budget_ms=60_000))
    assert ranked.pairs < 60
    assert ranked.certificate == profile.groups["standard/en"].certificate_id
    assert ranked.trace is not None
    assert ranked.trace.terms.price == 0.02
    assert np.isfinite(ranked.probability).any()


async def test_a_price_of_the_tenants_own_is_certified_only_up_to_the_certificates() -> None:
    dear = await rerank(Words(), scope_of(learned(0.001), latency_budget_ms=60_000, price=0.5))
    fair = await rerank(Words(), scope_of(learned(0.5), latency_budget_ms=60_000, price=0.001))
    casual = await rerank(Words(), scope_of(learned(0.5), price=0.001, criticality="casual"))
    assert dear.certificate is None
    assert fair.certificate is not None
    assert casual.trace is not None
    assert casual.trace.terms.price == pytest.approx(0.002)


async def test_a_budget_ends_the_reranking_and_voids_the_certificate() -> None:
    class Slow(Words):
        async def score(self, *given: Any) -> Scored:
            await asyncio.sleep(0.02)
            return await super().score(*given)

    ranked = await rerank(Slow(), scope_of(learned(0.0), latency_budget_ms=45))
    assert 0 < ranked.pairs < 60
    assert (ranked.decision, ranked.certificate) == ("partial", None)
    assert "latency budget" in ranked.reason
    assert ranked.trace is not None
    assert "budget_stop" in ranked.trace.verdict.reasons


async def test_a_model_that_hangs_is_left_within_the_budget() -> None:
    async with asyncio.timeout(5):
        ranked = await rerank(Words(hangs=True), scope_of(latency_budget_ms=50))
    assert (ranked.decision, ranked.degraded, ranked.pairs) == ("unavailable", ("reranker_timeout",), 0)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (Unavailable("gone"), "reranker_unavailable"),
        (Overloaded("full"), "reranker_unavailable"),
        (DeadlineExceeded("late"), "reranker_timeout"),
    ],
)
async def test_what_was_scored_before_a_failure_counts(error: FathomError, word: str) -> None:
    ranked = await rerank(Words(failures={1: error}), scope_of(learned(0.0), latency_budget_ms=60_000))
    assert ranked.degraded == (word,)
    assert (ranked.decision, ranked.pairs, ranked.certificate) == ("partial", 16, None)
    first = await rerank(Words(failures={0: error}), scope_of(latency_budget_ms=60_000))
    assert (first.decision, first.pairs) == ("unavailable", 0)
    assert first.reason.endswith(".")


async def test_a_platform_whose_models_are_gone_keeps_the_first_stage() -> None:
    gone = Words(absent=frozenset({"builtin-small", "builtin-large"}))
    ranked = await rerank(gone, scope_of())
    assert (ranked.decision, ranked.degraded) == ("unavailable", ("reranker_unavailable",))
    one = await rerank(Words(absent=frozenset({"builtin-large"})), scope_of(latency_budget_ms=60_000))
    assert (one.pairs, one.model) == (60, "builtin-small@rev-buil")


async def test_a_language_that_no_model_knows_is_not_reranked() -> None:
    scope = replace(scope_of(), config=fakes.scope(languages=["ja"]).config)
    ranked = await rerank(Words(languages=("en",)), scope)
    assert (ranked.decision, ranked.degraded, ranked.pairs) == ("unavailable", (), 0)
    assert "ja" in ranked.reason


async def test_a_quota_of_pairs_is_kept() -> None:
    @dataclass
    class Quota:
        rest: int = 20

        def left(self, scope: TenantScope) -> int | None:
            return self.rest

        def spend(self, scope: TenantScope, pairs: int) -> None:
            self.rest -= pairs

    quota = Quota()
    ranked = await rerank(Words(), scope_of(learned(0.0), latency_budget_ms=60_000), quota=quota)
    assert (ranked.pairs, quota.rest, ranked.certificate) == (20, 0, None)
    assert "pairs per minute" in ranked.reason
    none = await rerank(Words(), scope_of(), quota=quota)
    assert (none.pairs, none.decision) == (0, "skipped")


async def test_nothing_found_is_nothing_to_rerank() -> None:
    scope = scope_of()
    found = await fakes.FakeRetriever(()).retrieve(scope, QUESTION)
    ranked = await AdaptiveReranker(Words()).rerank(scope, QUESTION, found, fuse(found, "hybrid", FusionProfile()))
    assert (ranked.decision, ranked.pairs, len(ranked.order)) == ("skipped", 0, 0)


async def test_profiles_are_read_once_per_calibration() -> None:
    scope = scope_of(learned(0.5), latency_budget_ms=60_000)
    serving = reranker(Words())
    found = await fakes.FakeRetriever(PASSAGES).retrieve(scope, QUESTION)
    fusion = fuse(found, "hybrid", FusionProfile())
    first, second = [await serving.rerank(scope, QUESTION, found, fusion) for _ in range(2)]
    assert first.trace is not None
    assert second.trace is not None
    assert first.trace.terms.profile is second.trace.terms.profile
