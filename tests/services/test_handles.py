"""RemoteScorer over handles that behave as those of Serve when a replica is slow, full, gone or refuses; without Ray.

That Serve's own handles behave so is tested for real in tests/services/gateway/test_serving.py.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from services import deadline
from services.contracts import CrossEncoderFacts, Scored
from tenants.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from tests import fakes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve warns about itself when it is imported
    from ray.exceptions import RayActorError, RayTaskError
    from ray.serve.exceptions import BackPressureError

    from services import handles
    from services.handles import RemoteScorer

FACTS = CrossEncoderFacts("m", "r1", "int8", "t", (), (), ())
SCOPE = fakes.scope(rerankers={"small": "s", "large": "l"})
PASSAGES = [fakes.passage(1, "a text", metadata={"large": "x" * 100})]


class Response:
    """What `handle.method.remote()` gives: awaited once, cancelled when its caller leaves."""

    def __init__(self, answer: Awaitable[Any]) -> None:
        self._task = asyncio.ensure_future(answer)
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.shield(self._task).__await__()

    def cancel(self) -> None:
        self.cancelled = True
        self._task.cancel()


@dataclass
class Deployment:
    """A handle whose replica does what `behave` says."""

    behave: Callable[[], Awaitable[Any]]
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)

    def __getattr__(self, method: str) -> Any:
        return _Method(self, method)


@dataclass
class _Method:
    of: Deployment
    name: str

    def remote(self, *arguments: Any) -> Response:
        self.of.calls.append((self.name, arguments))
        self.of.responses.append(Response(self.of.behave()))
        return self.of.responses[-1]


def gives(value: Any) -> Callable[[], Awaitable[Any]]:
    async def answer() -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    return answer


async def never() -> Any:
    await asyncio.Event().wait()


def scored() -> Scored:
    return Scored(np.zeros(1, np.float32), np.zeros(1, np.bool_), 1.0)


def remote(small: Any = None, large: Any = None) -> tuple[RemoteScorer, Deployment, Deployment]:
    pair = Deployment(small or gives(scored())), Deployment(large or gives(scored()))
    return RemoteScorer(*pair), *pair


def failed(cause: Exception) -> Exception:
    """What a caller gets when the replica's method raised `cause`."""
    return RayTaskError("score", "traceback", cause).as_instanceof_cause()


async def test_a_reference_is_asked_where_its_role_is_served() -> None:
    scorer, small, large = remote()
    await scorer.score(SCOPE, "s", "q", PASSAGES)
    await scorer.score(SCOPE, "l", "q", PASSAGES)
    assert [len(one.calls) for one in (small, large)] == [1, 1]
    _, (scope, reference, query, passages, _, timeout_s) = large.calls[0]
    assert (scope.uid, reference, query, timeout_s) == (SCOPE.uid, "l", "q", None)
    assert (passages[0].text, passages[0].metadata) == ("a text", {}), "what is not scored does not travel"


@pytest.mark.parametrize("error", [Overloaded("full"), InvalidInput("no model"), Unavailable("away")])
async def test_what_the_replica_raises_arrives_as_it_is(error: Exception) -> None:
    scorer, _, _ = remote(large=gives(failed(error)))
    for _ in range(handles_limit() + 1):
        with pytest.raises(type(error)):
            await scorer.score(SCOPE, "l", "q", PASSAGES)


async def test_a_replica_that_gives_up_in_time_counts_as_slow() -> None:
    scorer, _, _ = remote(large=gives(failed(DeadlineExceeded("late"))))
    for _ in range(handles_limit()):
        with pytest.raises(DeadlineExceeded):
            await scorer.score(SCOPE, "l", "q", PASSAGES)
    with pytest.raises(Unavailable, match="rests"):
        await scorer.score(SCOPE, "l", "q", PASSAGES)


async def test_a_full_deployment_is_overloaded() -> None:
    scorer, _, _ = remote(large=gives(BackPressureError(num_queued_requests=9, max_queued_requests=9)))
    with pytest.raises(Overloaded):
        await scorer.score(SCOPE, "l", "q", PASSAGES)


async def test_a_slow_one_ends_at_the_deadline_and_is_told_to_stop() -> None:
    scorer, _, large = remote(large=never)
    with deadline.within(0.02), pytest.raises(DeadlineExceeded):
        await scorer.score(SCOPE, "l", "q", PASSAGES)
    assert large.responses[0].cancelled
    assert 0 < large.calls[0][1][-1] <= 0.02, "the replica knows the same deadline"


async def test_a_replica_that_died_is_tried_once_more_then_rests_alone() -> None:
    scorer, _, large = remote(large=gives(RayActorError()))
    with pytest.raises(Unavailable):
        await scorer.score(SCOPE, "l", "q", PASSAGES)
    assert len(large.calls) == 2
    for _ in range(handles_limit()):
        with pytest.raises(Unavailable):
            await scorer.score(SCOPE, "l", "q", PASSAGES)
    before = len(large.calls)
    with pytest.raises(Unavailable, match="rests"):
        await scorer.score(SCOPE, "l", "q", PASSAGES)
    assert len(large.calls) == before, "nobody asks a breaker that is open"
    other = fakes.scope(rerankers={"small": "s", "large": "another"})
    with pytest.raises(Unavailable, match="not there"):
        await scorer.score(other, "another", "q", PASSAGES)
    assert (await scorer.score(SCOPE, "s", "q", PASSAGES)).logits.shape == (1,)


async def test_it_recovers_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, _, large = remote(large=gives(RayActorError()))
    for _ in range(handles_limit()):
        with pytest.raises(Unavailable):
            await scorer.score(SCOPE, "l", "q", PASSAGES)
    large.behave = gives(scored())
    caller = scorer._callers["large", "l"]
    monkeypatch.setattr(caller._breaker, "_clock", lambda: caller._breaker._retry_at)
    assert (await scorer.score(SCOPE, "l", "q", PASSAGES)).logits.shape == (1,)
    assert caller._breaker.rest_s == 0


async def test_only_those_who_had_patience_say_that_a_model_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, _, _ = remote(large=never)
    for _ in range(handles_limit() + 1):
        with deadline.within(0.001), pytest.raises(DeadlineExceeded):
            await scorer.score(SCOPE, "l", "q", PASSAGES)
    caller = scorer._callers["large", "l"]
    assert caller._breaker.allows()
    monkeypatch.setattr(caller, "_patience_s", 0.001)
    for _ in range(handles_limit()):
        with deadline.within(0.01), pytest.raises(DeadlineExceeded):
            await scorer.score(SCOPE, "l", "q", PASSAGES)
    with deadline.within(10), pytest.raises(Unavailable, match="rests"):
        await scorer.score(SCOPE, "l", "q", PASSAGES)


async def test_facts_are_asked_once_then_beside_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, _, large = remote(large=gives(FACTS))
    for _ in range(3):
        assert await scorer.facts(SCOPE, "l") == FACTS
    assert len(large.calls) == 1
    monkeypatch.setattr(handles, "FACTS_S", -1.0)
    release = asyncio.Event()

    async def held() -> Any:
        await release.wait()
        return FACTS

    large.behave = held
    assert await scorer.facts(SCOPE, "l") == FACTS, "nobody waits for the second look"
    _, task = scorer._asked["large", "l"]
    release.set()
    await task
    large.behave = gives(failed(Unavailable("away")))
    await scorer.facts(SCOPE, "l")
    await scorer._asked["large", "l"][1]
    with pytest.raises(Unavailable):
        await scorer.facts(SCOPE, "l")


def handles_limit() -> int:
    """Failures in a row that open a breaker."""
    return handles.Breaker()._limit
