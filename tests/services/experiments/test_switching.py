"""A tenant stays on what serves it until what comes next is warm."""

import asyncio
from dataclasses import replace

from services.experiments.switching import RETRY_S, Switching
from tenants.errors import Unavailable
from tenants.scope import Champion, Trial
from tests import fakes


async def test_the_old_one_serves_until_the_new_one_is_warm():
    loaded, asked = asyncio.Event(), []

    async def warm(scope):
        asked.append(scope.champion.number)
        await loaded.wait()

    switching = Switching(warm)
    plain = fakes.scope()
    promoted = replace(plain, champion=Champion(1, "x/b", {}))
    assert switching.settled(plain) is plain
    assert switching.settled(promoted).champion is None
    await asyncio.sleep(0)
    assert switching.settled(promoted).champion is None
    loaded.set()
    await asyncio.sleep(0.01)
    assert switching.settled(promoted) is promoted
    assert asked == [1]


async def test_what_cannot_be_loaded_never_serves_and_is_tried_again():
    now, tried = [0.0], []

    async def warm(scope):
        tried.append(scope.champion.number)
        raise Unavailable("no such weights")

    switching = Switching(warm, clock=lambda: now[0])
    plain = fakes.scope()
    promoted = replace(plain, champion=Champion(1, "x/b", {}))
    switching.settled(plain)
    for _ in range(3):
        assert switching.settled(promoted).champion is None
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert tried == [1]
    now[0] = RETRY_S + 1
    switching.settled(promoted)
    await asyncio.sleep(0)
    assert tried == [1, 1]


async def test_a_rollback_while_the_new_one_loads_is_no_switch_at_all():
    loaded = asyncio.Event()

    async def warm(scope):
        if scope.champion.variant is not None:
            await loaded.wait()

    switching = Switching(warm)
    plain = fakes.scope()
    switching.settled(plain)
    switching.settled(replace(plain, champion=Champion(1, "x/b", {})))
    back = replace(plain, champion=Champion(2, None, {}))
    switching.settled(back)
    await asyncio.sleep(0.01)
    assert switching.settled(back) is back
    loaded.set()
    await asyncio.sleep(0.01)
    assert switching.settled(back) is back


async def test_a_process_that_has_just_started_takes_what_it_finds():
    promoted = replace(fakes.scope(), champion=Champion(1, "x/b", {}))
    assert Switching(None).settled(promoted) is promoted


async def test_a_way_back_waits_for_nothing():
    async def warm(scope):
        raise Unavailable("nothing can be loaded now")

    switching = Switching(warm)
    trial = Trial("x", "salt", 1.0, {})
    tried = replace(fakes.scope(), champion=Champion(1, "x/b", {}), trial=trial)
    switching.settled(tried)
    stopped = replace(tried, trial=None)
    assert switching.settled(stopped) is stopped
    restored = replace(stopped, champion=Champion(2, None, {}, restored=True))
    assert switching.settled(restored) is restored


async def test_a_defect_in_loading_is_not_met_by_every_question():
    tried = []

    async def warm(scope):
        tried.append(1)
        raise RuntimeError("a defect")

    switching = Switching(warm, clock=lambda: 0.0)
    switching.settled(fakes.scope())
    for _ in range(5):
        switching.settled(replace(fakes.scope(), champion=Champion(1, "x/b", {})))
        await asyncio.sleep(0.001)
    assert tried == [1]
