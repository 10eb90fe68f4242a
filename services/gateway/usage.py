"""A tenant's quotas of what one question may use much of, a minute: query-chunk pairs, and a generator's tokens."""

from __future__ import annotations

from typing import ClassVar

from services.gateway.limits import Policy, RateLimits
from tenants.errors import QuotaExceeded
from tenants.scope import TenantScope


class MinuteQuota:
    """Units a minute on the gateway's own counts. Subclasses say which: `name`, and the `setting` of the tenant.

    What is used is known only afterwards, so what went beyond the quota is waited off later.
    """

    name: ClassVar[str]
    setting: ClassVar[str]

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits

    def left(self, scope: TenantScope) -> int | None:
        """Units that may be used now; None = no limit."""
        if self._quota(scope) == 0:
            return 0
        policy = self._policy(scope)
        return None if policy is None else self._limits.left(scope.uid, policy)

    def spend(self, scope: TenantScope, units: int) -> None:
        """Count units that were used; negative ones are given back."""
        policy = self._policy(scope)
        if policy is not None:
            self._limits.charge(scope.uid, policy, units)

    def _quota(self, scope: TenantScope) -> int | None:
        quota: int | None = getattr(scope.config.quotas, self.setting)
        return quota

    def _policy(self, scope: TenantScope) -> Policy | None:
        """The share of the quota that one gateway grants."""
        quota = self._quota(scope)
        return None if quota is None else Policy(self.name, max(1, quota // self._limits.replicas))


class TenantTokens(MinuteQuota):
    """`services.generation.answerer.TokenQuota`: what a generator reads and writes."""

    name, setting = "generator_tokens", "generator_tokens_per_minute"


class TenantPairs(MinuteQuota):
    """`services.reranking.adaptive.PairQuota`, and what …/rerank may ask for. Remembered logits cost nothing."""

    name, setting = "rerank_pairs", "rerank_pairs_per_minute"

    def reserve(self, scope: TenantScope, pairs: int) -> None:
        """Count pairs before they are scored; give back with `spend(scope, -pairs)`. Raises `QuotaExceeded`."""
        policy = self._policy(scope)
        if policy is None:
            return
        if self._quota(scope) == 0:
            raise QuotaExceeded("this tenant's quota of rerank pairs is 0; ask the operator for a higher one")
        self._limits.spend(scope.uid, policy, pairs).enforce()
