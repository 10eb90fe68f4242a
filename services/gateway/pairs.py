"""A tenant's quota of query-chunk pairs a minute: what the policy may still score, and what …/rerank may ask for."""

from __future__ import annotations

from services.gateway.limits import RateLimits, pairs_policy
from tenants.errors import QuotaExceeded
from tenants.scope import TenantScope


class TenantPairs:
    """`services.reranking.adaptive.PairQuota` on the gateway's own counts. Remembered logits cost nothing."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits

    def left(self, scope: TenantScope) -> int | None:
        """Pairs that may be scored now; None = no limit."""
        if scope.config.quotas.rerank_pairs_per_minute == 0:
            return 0
        policy = pairs_policy(scope.config.quotas, self._limits.replicas)
        return None if policy is None else self._limits.left(scope.uid, policy)

    def spend(self, scope: TenantScope, pairs: int) -> None:
        """Count pairs that were scored; what questions at the same time spent beyond the quota is waited off later."""
        policy = pairs_policy(scope.config.quotas, self._limits.replicas)
        if policy is not None:
            self._limits.charge(scope.uid, policy, pairs)

    def reserve(self, scope: TenantScope, pairs: int) -> None:
        """Count pairs before they are scored; give back with `spend(scope, -pairs)`. Raises `QuotaExceeded`."""
        policy = pairs_policy(scope.config.quotas, self._limits.replicas)
        if policy is None:
            return
        if scope.config.quotas.rerank_pairs_per_minute == 0:
            raise QuotaExceeded("this tenant's quota of rerank pairs is 0; ask the operator for a higher one")
        self._limits.spend(scope.uid, policy, pairs).enforce()
