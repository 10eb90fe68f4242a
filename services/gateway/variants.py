"""Which variant answers: the last step before the line. What a variant needs is warm before anybody is sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from services.contracts import PairScorer, Question
from services.experiments.serving import Variants
from services.gateway.auth import Access
from services.gateway.ports import Platform
from tenants.scope import TenantScope

SWITCH_S = 8.0  # a promotion is answered by then, switched or not


async def chosen(platform: Platform, access: Access, question: Question) -> TenantScope:
    """The published scope under the configuration that answers this question, see `Variants.chosen`."""
    scope = await platform.catalogue.pinned(platform.switching.settled(access.scope))
    return platform.variants.chosen(scope, question, access.request_id)


async def switched(platform: Platform, tenants: Sequence[str]) -> None:
    """Return once this process answers those tenants as the control plane says now, or after SWITCH_S.

    Other replicas follow by themselves, each once its models are warm.
    """

    async def one(name: str) -> None:
        tenant = await asyncio.to_thread(platform.store.get_tenant, name)
        scope = await asyncio.to_thread(platform.calibrations.scope_of, tenant, platform.settings.root)
        await platform.switching.switch(scope)

    work = [asyncio.create_task(one(name)) for name in tenants]
    if work:
        await asyncio.wait(work, timeout=SWITCH_S)


def warmer(variants: Variants, scorer: PairScorer) -> Callable[[TenantScope], Awaitable[None]]:
    """Loads the cross-encoders of the champion and of every arm. Raises what loading raises."""

    async def warm(scope: TenantScope) -> None:
        wanted = {(one.config.rerankers.small, one.config.rerankers.large): one for one in variants.every(scope)}
        asked = [scorer.facts(one, reference) for pair, one in wanted.items() for reference in pair]
        await asyncio.gather(*asked)

    return warm
