"""A tenant stays on what serves it until what comes next is warm: a promotion is a switch between two requests.

    promoted → seen here (within the cache's seconds) → its models load beside the traffic → switched

A way back waits for nothing: an experiment that ends and a rollback hold at once, whatever can or cannot be loaded.
Each process switches by itself; what it holds a tenant on is forgotten with the process. Knows no model: `warm` does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, replace

from tenants.scope import Champion, TenantScope, Trial

RETRY_S = 10.0  # after a model that could not be loaded
_KEPT = 4_096
_log = logging.getLogger("fathom.experiments")

Warm = Callable[[TenantScope], Awaitable[None]]


@dataclass(slots=True)
class _Live:
    """What serves a tenant here."""

    champion: Champion | None
    trial: Trial | None
    warming: asyncio.Task[None] | None = None
    wanted: tuple[int, str] | None = None
    retry_at: float = 0.0


class Switching:
    """One per process. Without `warm` everything counts as warm."""

    def __init__(self, warm: Warm | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._warm = warm
        self._clock = clock
        self._live: OrderedDict[str, _Live] = OrderedDict()

    def settled(self, scope: TenantScope) -> TenantScope:
        """The scope with the champion and the experiment that are ready here. Never waits; from an event loop."""
        live = self._live.get(scope.uid)
        if live is None or self._warm is None or _leads_back(live, scope):
            self._hold(scope)
            return scope
        self._begin(live, scope)
        return replace(scope, champion=live.champion, trial=live.trial)

    async def switch(self, scope: TenantScope) -> None:
        """Return once this process serves what the scope says, or cannot: then it stays on what it has."""
        self.settled(scope)
        live = self._live[scope.uid]
        if live.warming is not None:
            await asyncio.wait({live.warming})

    def _hold(self, scope: TenantScope) -> None:
        live = self._live.setdefault(scope.uid, _Live(scope.champion, scope.trial))
        live.champion, live.trial = scope.champion, scope.trial
        if live.warming is not None and live.wanted != _key(scope.champion, scope.trial):
            live.warming.cancel()
            live.warming = None
        if len(self._live) > _KEPT:
            self._live.popitem(last=False)

    def _begin(self, live: _Live, scope: TenantScope) -> None:
        wanted = _key(scope.champion, scope.trial)
        if live.wanted == wanted and (live.warming is not None or self._clock() < live.retry_at):
            return
        if live.warming is not None:
            live.warming.cancel()  # something newer was promoted meanwhile
        live.wanted = wanted
        # In a context of its own: the question's deadline is not the model's.
        live.warming = asyncio.get_running_loop().create_task(self._switch(live, scope), context=Context())

    async def _switch(self, live: _Live, scope: TenantScope) -> None:
        assert self._warm is not None
        try:
            await self._warm(scope)
        except Exception as error:  # noqa: BLE001 - this task's outermost frame; every failure waits before the next
            _log.warning("tenant %s stays on its variant: %s", scope.tenant, getattr(error, "detail", repr(error)))
            live.retry_at = self._clock() + RETRY_S
        else:
            live.champion, live.trial = scope.champion, scope.trial
        finally:
            if live.wanted == _key(scope.champion, scope.trial):
                live.warming = None


def _leads_back(live: _Live, scope: TenantScope) -> bool:
    """Whether the scope names nothing that is new here: the same, or less, or what a rollback restored."""
    same = (live.champion.number if live.champion else 0) == (scope.champion.number if scope.champion else 0)
    back = same or (scope.champion is not None and scope.champion.restored)
    known = live.trial is not None and scope.trial is not None and live.trial.salt == scope.trial.salt
    return back and (scope.trial is None or known)


def _key(champion: Champion | None, trial: Trial | None) -> tuple[int, str]:
    return (champion.number if champion else 0), (trial.salt if trial else "")
