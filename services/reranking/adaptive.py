"""The loop that serves: the policy says which pairs, a scorer scores them, until the policy says stop.

    terms (whose price, which certificate, how much time) → facts → decide ⇄ score → conclude → defences → Ranked

The only reranker of a platform with cross-encoders. `always` is price 0 without a latency budget, `never` asks for no
pair, `depth` caps the candidates. Whatever a scorer lacks becomes a degradation: what was scored until then counts.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from services import deadline
from services.contracts import (
    Candidates,
    CrossEncoderFacts,
    Degradation,
    Fusion,
    PairScorer,
    Question,
    Ranked,
)
from services.reranking.certificate import Conditions, group_of, standing
from services.reranking.defences import EXAMINED, flags
from services.reranking.facts import ROLES, Costs, Limits, Role
from services.reranking.features import facts_of
from services.reranking.first_stage import nothing_found, unscored
from services.reranking.policy import State, conclude, decide, observe, start
from services.reranking.profile import WEIGHTS, Profile, model_name, neutral, pooled
from services.reranking.telling import ranked_of
from services.reranking.trace import Terms, Trace
from tenants.errors import DeadlineExceeded, FathomError
from tenants.scope import TenantScope

SHARE = 0.8  # of the request's time, at most: what a model that is gone takes must leave room for an honest answer
_PROFILES = 256


class PairQuota(Protocol):
    """A tenant's pairs per minute; counts in this process."""

    def left(self, scope: TenantScope) -> int | None:
        """Pairs that may be scored now; None = no limit."""
        ...

    def spend(self, scope: TenantScope, pairs: int) -> None:
        """Count pairs that were scored."""
        ...


class Unmetered:
    """PairQuota without a limit: evaluations, the CLI."""

    def left(self, scope: TenantScope) -> int | None:
        """None."""
        return None

    def spend(self, scope: TenantScope, pairs: int) -> None:
        """Nothing is counted."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Where the loop ended; `failure` is the scorer's error, None when the policy stopped."""

    state: State
    failure: FathomError | None = None


class AdaptiveReranker:
    """contracts.Reranker. One per process; knows nothing of a question once it is answered."""

    def __init__(
        self,
        scorer: PairScorer,
        quota: PairQuota | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._scorer = scorer
        self._quota = quota or Unmetered()
        self._now = now
        self._profiles = _Profiles()

    async def rerank(self, scope: TenantScope, question: Question, candidates: Candidates, fusion: Fusion) -> Ranked:
        """See `contracts.Reranker`: never raises for a model that is slow, full or gone."""
        began = time.perf_counter()
        wish = question.rerank if question.rerank != "auto" else scope.config.rerank.policy
        if not len(fusion.order):
            return nothing_found(candidates, fusion)
        if wish == "never":
            return unscored(candidates, fusion, wish)
        try:
            models = await self._models(scope)
        except FathomError as error:
            return unscored(candidates, fusion, wish, failure=error)
        if not models:
            return unscored(candidates, fusion, wish, languages=scope.config.languages)
        seen = flags(question.text, candidates, fusion.order[:EXAMINED].tolist())
        facts = facts_of(question.text, candidates, fusion, seen.suspect)
        terms = self._terms(scope, question, wish, models, (time.perf_counter() - began) * 1000)
        state = start(facts, terms.profile, terms.price, Costs.measured(models), terms.limits)
        ended = await self._loop(state, scope, question, candidates)
        verdict = conclude(ended.state, _why(ended.failure))
        self._quota.spend(scope, verdict.pairs)
        cause = ended.failure.detail if ended.failure else None
        trace = Trace(terms, facts, verdict, seen, models, cause)
        return ranked_of(question.text, candidates, fusion, trace, _degraded(ended.failure))

    async def _loop(self, state: State, scope: TenantScope, question: Question, candidates: Candidates) -> _Outcome:
        """Until the policy stops or the scorer fails."""
        while (action := decide(state)).kind != "stop":
            reference = _reference(scope, action.kind)
            passages = [candidates.passages[row] for row in action.rows.tolist()]
            left_s = min((state.limits.budget - state.spent) / 1000, SHARE * deadline.remaining_s())
            began = time.perf_counter()
            try:
                with deadline.within(left_s):
                    scored = await self._scorer.score(scope, reference, question.text, passages, True)
            except FathomError as error:
                return _Outcome(state, error)
            elapsed_ms = (time.perf_counter() - began) * 1000
            known = ~np.isnan(scored.logits)
            part = action if known.all() else replace(action, rows=action.rows[known])
            state = observe(state, part, scored.logits[known], scored.cached[known], elapsed_ms)
            if part is not action:
                return _Outcome(state, DeadlineExceeded("the latency budget ended within a batch"))
        return _Outcome(state)

    async def _models(self, scope: TenantScope) -> dict[Role, CrossEncoderFacts]:
        """The tenant's cross-encoders that are there and know its language; raises when none is there."""
        asked = [self._scorer.facts(scope, _reference(scope, role)) for role in ROLES]
        found = await asyncio.gather(*asked, return_exceptions=True)
        failures = [one for one in found if isinstance(one, BaseException)]
        if any(not isinstance(one, FathomError) for one in failures) or len(failures) == len(ROLES):
            raise failures[-1]
        language = scope.config.languages[0]
        return {
            role: one
            for role, one in zip(ROLES, found, strict=True)
            if isinstance(one, CrossEncoderFacts) and (not one.languages or language in one.languages)
        }

    def _terms(
        self,
        scope: TenantScope,
        question: Question,
        wish: str,
        models: Mapping[Role, CrossEncoderFacts],
        spent_ms: float,
    ) -> Terms:
        wanted = scope.config.rerank
        profile, digest, calibrated = self._profile(scope, models)
        group = group_of(wanted.criticality, scope.config.languages[0])
        stands = standing(profile.groups, group, _conditions(scope, models), self._now(), scope.alarms)
        price, certificate, why = stands.price, stands.certificate, stands.reason
        if wanted.price is not None and calibrated:
            price, why = wanted.price * WEIGHTS[wanted.criticality], "The tenant set the price itself."
        price = 0.0 if wish == "always" else price
        depth = wanted.max_depth if question.depth is None else min(question.depth, wanted.max_depth)
        budget = math.inf if wish == "always" else max(0.0, wanted.latency_budget_ms - spent_ms)
        held = certificate if certificate is not None and price <= certificate.price else None
        limits = Limits(depth, budget, self._quota.left(scope))
        return Terms(wish, profile, digest, group, price, limits, held, why, calibrated)

    def _profile(self, scope: TenantScope, models: Mapping[Role, CrossEncoderFacts]) -> tuple[Profile, str, bool]:
        """The newest profile that was learned with these models; else what is assumed of any, and False."""
        revisions = {role: one.revision for role, one in models.items()}
        for known in (scope.calibration, *scope.earlier, None):
            profile, digest = self._profiles.of(known)
            if profile.fits(revisions):
                return profile, digest, True
        return (*self._profiles.of_nobody, False)


class _Profiles:
    """Profiles read from a scope's JSON, once each; the cache before the control plane hands out the same object."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[Mapping[str, Any], Profile, str]] = OrderedDict()
        self._pooled = (pooled(), pooled().digest)
        self.of_nobody = (neutral(), neutral().digest)

    def of(self, calibration: Mapping[str, Any] | None) -> tuple[Profile, str]:
        if calibration is None:
            return self._pooled
        known = self._known.pop(id(calibration), None)
        if known is None:
            profile = Profile.from_json(calibration)
            known = (calibration, profile, profile.digest)  # the mapping is held, so its id is nobody else's
        self._known[id(calibration)] = known
        if len(self._known) > _PROFILES:
            self._known.popitem(last=False)
        return known[1:]


def _conditions(scope: TenantScope, models: Mapping[Role, CrossEncoderFacts]) -> Conditions:
    names: dict[str, str] = {role: model_name(one) for role, one in models.items()}
    if scope.release is None:
        return Conditions(names)
    turnover = int(scope.release.profile.get("turnover", 0))
    return Conditions(names, scope.release.fingerprint, scope.release.chunks, turnover)


def _reference(scope: TenantScope, role: str) -> str:
    return scope.config.rerankers.large if role == "large" else scope.config.rerankers.small


def _why(failure: FathomError | None) -> str | None:
    if failure is None:
        return None
    return "budget" if isinstance(failure, DeadlineExceeded) else "failed"


def _degraded(failure: FathomError | None) -> tuple[Degradation, ...]:
    if failure is None:
        return ()
    return ("reranker_timeout",) if isinstance(failure, DeadlineExceeded) else ("reranker_unavailable",)
