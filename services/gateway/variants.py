"""Which variant answers: the last step before the line. What a variant needs is warm before anybody is sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.contracts import PairScorer, Question
from services.experiments.serving import Variants
from services.gateway.auth import Access
from services.gateway.ports import Platform
from tenants.scope import TenantScope


async def chosen(platform: Platform, access: Access, question: Question) -> TenantScope:
    """The published scope under the configuration that answers this question, see `Variants.chosen`."""
    scope = await platform.catalogue.pinned(platform.switching.settled(access.scope))
    return platform.variants.chosen(scope, question, access.request_id)


def warmer(variants: Variants, scorer: PairScorer) -> Callable[[TenantScope], Awaitable[None]]:
    """Loads the cross-encoders of the champion and of every arm. Raises what loading raises."""

    async def warm(scope: TenantScope) -> None:
        wanted = {(one.config.rerankers.small, one.config.rerankers.large): one for one in variants.every(scope)}
        asked = [scorer.facts(one, reference) for pair, one in wanted.items() for reference in pair]
        await asyncio.gather(*asked)

    return warm
