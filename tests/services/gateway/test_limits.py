"""Quotas: GCRA by its definition, headers by draft-ietf-httpapi-ratelimit-headers-10."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.limits import Policy, RateLimits, decide, requests_policy
from services.gateway.usage import TenantPairs
from tenants.config import Quotas
from tenants.errors import QuotaExceeded
from tests import fakes


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_quota_of_three_a_minute_grants_three_then_one_every_twenty_seconds():
    policy, arrival, granted = Policy("requests", 3), 0.0, []
    for now in (100, 100, 100, 100, 119.9, 120, 120, 140, 200, 200, 200, 200):
        decision, arrival = decide(policy, arrival, now)
        granted.append(decision.allowed)
    assert granted == [True, True, True, False, False, True, False, True, True, True, True, False]


def test_a_refusal_says_when_the_next_unit_comes():
    policy = Policy("requests", 3)
    _, arrival = decide(policy, 0, 100, cost=3)
    refused, after = decide(policy, arrival, 105)
    assert (refused.allowed, refused.retry_after_s, refused.remaining) == (False, 15.0, 0)
    assert after == arrival, "a refusal counts nothing"


def test_a_cost_above_the_whole_quota_never_passes():
    refused, _ = decide(Policy("rerank_pairs", 10), 0, 100, cost=11)
    assert math.isinf(refused.retry_after_s)
    with pytest.raises(QuotaExceeded, match="more than your whole quota of 10 rerank pairs") as error:
        refused.enforce()
    assert error.value.retry_after_s is None


def test_headers_are_the_drafts_and_openais():
    granted, _ = decide(Policy("requests", 600), 0, 100, cost=10)
    assert granted.headers() == {
        "RateLimit-Policy": '"requests";q=600;w=60',
        "RateLimit": '"requests";r=590;t=1',
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "590",
        "x-ratelimit-reset-requests": "1s",
    }


@given(quota=st.integers(1, 100_000), window_s=st.sampled_from([1.0, 60.0, 86_400.0]), start=st.floats(0, 1e9))
def test_a_rested_tenant_may_send_exactly_its_quota(quota: int, window_s: float, start: float):
    policy = Policy("requests", quota, window_s)
    whole, _ = decide(policy, 0, start, cost=quota)
    assert (whole.allowed, whole.remaining) == (True, 0)
    above, _ = decide(policy, 0, start, cost=quota + 1)
    assert not above.allowed
    assert above.remaining == quota


@given(quota=st.integers(1, 50), gaps=st.lists(st.floats(0, 30), min_size=1, max_size=200))
def test_no_window_lets_more_than_twice_the_quota_pass(quota: int, gaps: list[float]):
    # GCRA's bound over an interval of length t: burst + rate · t = quota + quota for t = window.
    policy, arrival, now, passed = Policy("requests", quota), 0.0, 1_000.0, []
    for gap in gaps:
        now += gap
        decision, arrival = decide(policy, arrival, now)
        if decision.allowed:
            passed.append(now)
        else:
            again, _ = decide(policy, arrival, now + decision.retry_after_s)
            assert again.allowed, "Retry-After is enough"
    assert all(sum(start <= t < start + 60 for t in passed) <= 2 * quota for start in passed)


def test_tenants_and_policies_do_not_share_a_count():
    limits, quotas = RateLimits(clock=Clock()), Quotas(requests_per_minute=1)
    assert limits.request("a", quotas).allowed
    assert not limits.request("a", quotas).allowed
    assert limits.request("b", quotas).allowed
    pairs = Policy("rerank_pairs", 5)
    assert limits.spend("a", pairs, 5).allowed
    assert not limits.spend("a", pairs).allowed


def test_replicas_grant_their_share():
    quotas = Quotas(requests_per_minute=600)
    assert requests_policy(quotas, replicas=3).quota == 200


def test_the_concurrent_limit_frees_places_also_on_errors():
    limits, quotas = RateLimits(), Quotas(concurrent=2)
    with limits.running("a", quotas):
        with pytest.raises(KeyError), limits.running("a", quotas):
            raise KeyError
        with limits.running("a", quotas):
            with pytest.raises(QuotaExceeded, match="2 of your requests"), limits.running("a", quotas):
                pytest.fail("a third one got in")
            with limits.running("b", quotas):
                pass
    assert not limits._running


def test_rested_tenants_cost_no_memory():
    clock = Clock()
    limits = RateLimits(clock=clock)
    for number in range(2_000):
        limits.request(f"t{number}", Quotas())
    clock.now += 60
    for _ in range(1_024):
        limits.request("last", Quotas())
    assert set(limits._arrivals) == {("last", "requests")}


def test_what_is_used_beyond_the_quota_is_waited_off():
    clock = Clock()
    limits, pairs = RateLimits(clock=clock), Policy("rerank_pairs", 60)
    assert limits.left("a", pairs) == 60
    limits.charge("a", pairs, 90)
    assert limits.left("a", pairs) == 0
    clock.now += 30
    assert limits.left("a", pairs) == 0
    clock.now += 1
    assert limits.left("a", pairs) == 1
    limits.charge("a", pairs, -10)
    assert limits.left("a", pairs) == 11
    assert limits.left("b", pairs) == 60


def test_a_tenants_pairs_follow_its_configuration():
    pairs = TenantPairs(RateLimits(clock=Clock()))
    free, none, some = (
        fakes.scope(quotas={"rerank_pairs_per_minute": quota}) if quota is not None else fakes.scope()
        for quota in (None, 0, 5)
    )
    assert (pairs.left(free), pairs.left(none), pairs.left(some)) == (None, 0, 5)
    pairs.spend(free, 1_000)
    pairs.reserve(free, 1_000)
    pairs.reserve(some, 5)
    with pytest.raises(QuotaExceeded):
        pairs.reserve(some, 1)
    with pytest.raises(QuotaExceeded):
        pairs.reserve(none, 1)
    pairs.spend(some, -2)
    assert pairs.left(some) == 2
