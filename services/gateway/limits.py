"""A tenant's own quotas: how often, how many at once, how much. Decisions are pure, `RateLimits` keeps their state.

The rate is GCRA (ITU-T I.371, the virtual scheduling algorithm), equal to a token bucket that holds `quota`
units and refills evenly over `window_s`: a rested tenant may send its whole quota at once, and over any window
at most twice the quota passes. One number per tenant and policy is kept, the theoretical arrival time; nothing
sleeps. Headers follow draft-ietf-httpapi-ratelimit-headers-10, beside OpenAI's `x-ratelimit-*`.

The state is one process's. With several gateway replicas each grants its share of the quota (`replicas`): as many
as always run, so that no tenant gets less than its quota; while autoscaling adds replicas it may get more.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tenants.config import Quotas
from tenants.errors import QuotaExceeded

MINUTE_S = 60.0
_PRUNE_EVERY = 1_024
_ROUNDING = 1e-9  # a quota of 3 must allow 3, though 3 · (60 / 3) may come out above 60


@dataclass(frozen=True, slots=True)
class Policy:
    """`quota` units per `window_s` seconds."""

    name: str
    quota: int
    window_s: float = MINUTE_S


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether `cost` units pass; `remaining` units are left now, all of them again after `reset_s`.

    `retry_after_s` is 0 when allowed, and infinite when the cost exceeds the whole quota.
    """

    policy: Policy
    allowed: bool
    remaining: int
    reset_s: float
    retry_after_s: float = 0.0

    def headers(self) -> dict[str, str]:
        """For every answer, granted or not; `Retry-After` is added by whoever turns the error into an answer."""
        name, quota, reset = self.policy.name, self.policy.quota, math.ceil(self.reset_s)
        return {
            "RateLimit-Policy": f'"{name}";q={quota};w={math.ceil(self.policy.window_s)}',
            "RateLimit": f'"{name}";r={self.remaining};t={reset}',
            f"x-ratelimit-limit-{name}": str(quota),
            f"x-ratelimit-remaining-{name}": str(self.remaining),
            f"x-ratelimit-reset-{name}": f"{reset}s",
        }

    def enforce(self) -> None:
        """Raises `QuotaExceeded` with `retry_after_s` unless allowed."""
        if self.allowed:
            return
        what = f"{self.policy.quota} {self.policy.name.replace('_', ' ')} per {self.policy.window_s:g} s"
        if math.isinf(self.retry_after_s):
            raise QuotaExceeded(f"this needs more than your whole quota of {what}; send less, or ask for a higher one")
        mend = f"retry after {math.ceil(self.retry_after_s)} s, or ask the operator for a higher one"
        raise QuotaExceeded(f"your quota of {what} is used up; {mend}", retry_after_s=self.retry_after_s)


def decide(policy: Policy, arrival: float, now: float, cost: int = 1) -> tuple[Decision, float]:
    """GCRA. `arrival` is the theoretical arrival time (any past time = rested); gives the decision and the next one.

    A unit takes T = window / quota seconds. Allowed when max(arrival, now) + cost · T ≤ now + window.
    """
    unit_s = policy.window_s / policy.quota
    earliest = max(arrival, now)
    after = earliest + cost * unit_s
    over_s = after - now - policy.window_s
    if over_s > _ROUNDING * policy.window_s:
        retry_s = math.inf if cost > policy.quota else over_s
        return Decision(policy, False, _left(policy, earliest - now), earliest - now, retry_s), arrival
    return Decision(policy, True, _left(policy, after - now), after - now), after


def _left(policy: Policy, used_s: float) -> int:
    return max(0, math.floor((policy.window_s - used_s) * policy.quota / policy.window_s + _ROUNDING * policy.quota))


def requests_policy(quotas: Quotas, replicas: int = 1) -> Policy:
    """How many requests a minute one of `replicas` gateways grants."""
    return Policy("requests", max(1, quotas.requests_per_minute // replicas))


class RateLimits:
    """What each tenant has used, in this process. For one event loop: nothing here waits."""

    def __init__(self, replicas: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.replicas = replicas
        self._clock = clock
        self._arrivals: dict[tuple[str, str], float] = {}
        self._running: Counter[str] = Counter()
        self._calls = 0

    def request(self, tenant: str, quotas: Quotas) -> Decision:
        """Count one request. Send `headers()` with the answer, and `enforce()`."""
        return self.spend(tenant, requests_policy(quotas, self.replicas))

    def spend(self, tenant: str, policy: Policy, cost: int = 1) -> Decision:
        """Count `cost` units of `policy`; a refusal counts nothing."""
        now = self._clock()
        self._prune(now)
        decision, after = decide(policy, self._arrivals.get((tenant, policy.name), now), now, cost)
        self._arrivals[tenant, policy.name] = after
        return decision

    def left(self, tenant: str, policy: Policy) -> int:
        """Units that would pass now."""
        now = self._clock()
        return decide(policy, self._arrivals.get((tenant, policy.name), now), now, cost=0)[0].remaining

    def charge(self, tenant: str, policy: Policy, cost: int) -> None:
        """Count what has been used already, also beyond the quota: until that has refilled nothing passes."""
        now = self._clock()
        arrival = max(self._arrivals.get((tenant, policy.name), now), now)
        self._arrivals[tenant, policy.name] = arrival + cost * policy.window_s / policy.quota

    @contextmanager
    def running(self, tenant: str, quotas: Quotas) -> Iterator[None]:
        """Hold one of the tenant's places for requests at work, streams included. Raises `QuotaExceeded`."""
        if self._running[tenant] >= max(1, quotas.concurrent // self.replicas):
            detail = f"{quotas.concurrent} of your requests are at work, your limit; wait for one to end"
            raise QuotaExceeded(detail, retry_after_s=1)
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]

    def _prune(self, now: float) -> None:
        # A rested tenant's number says the same as none, so idle tenants cost no memory.
        self._calls += 1
        if self._calls % _PRUNE_EVERY == 0:
            self._arrivals = {key: arrival for key, arrival in self._arrivals.items() if arrival > now}
