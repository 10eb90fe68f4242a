"""A tenant's quota of generator tokens a minute: known only afterwards, so what went beyond it is waited off."""

from __future__ import annotations

from services.gateway.limits import RateLimits, tokens_policy
from tenants.scope import TenantScope


class TenantTokens:
    """`services.generation.answerer.TokenQuota` on the gateway's own counts."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits

    def left(self, scope: TenantScope) -> int | None:
        """Tokens that may be spent now; None = no limit."""
        if scope.config.quotas.generator_tokens_per_minute == 0:
            return 0
        policy = tokens_policy(scope.config.quotas, self._limits.replicas)
        return None if policy is None else self._limits.left(scope.uid, policy)

    def spend(self, scope: TenantScope, tokens: int) -> None:
        """Count tokens that a generator read and wrote."""
        policy = tokens_policy(scope.config.quotas, self._limits.replicas)
        if policy is not None and tokens:
            self._limits.charge(scope.uid, policy, tokens)
