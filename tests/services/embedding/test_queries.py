"""The query encoder over small stand-ins of an encoder: what it promises needs no model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from services.contracts import Float32
from services.embedding.queries import QueryEncoder
from tenants.errors import NotFound, Unavailable

LIMIT_S = 300


class Recorder:
    """Encodes texts as their lengths and keeps them; `held` blocks the first call until it is let go."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.entered, self.held = threading.Event(), threading.Event()
        self.held.set()

    def encode(self, texts: Sequence[str]) -> Float32:
        self.entered.set()
        assert self.held.wait(LIMIT_S)
        self.texts.extend(texts)
        return np.array([[len(text)] for text in texts], np.float32)


@pytest.fixture
def opened() -> Iterator[Callable[..., QueryEncoder]]:
    made: list[QueryEncoder] = []

    def make(load: Callable[[str], object], **options: int) -> QueryEncoder:
        made.append(QueryEncoder(load, **options))
        return made[-1]

    yield make
    for encoder in made:
        encoder.close()


@pytest.mark.parametrize("error", [RuntimeError, ValueError, MemoryError])
async def test_what_the_engine_raises_is_unavailable(
    opened: Callable[..., QueryEncoder], error: type[Exception]
) -> None:
    class Broken(Recorder):
        def encode(self, texts: Sequence[str]) -> Float32:
            raise error("a secret text")

    encoder = opened(lambda _: Broken())
    with pytest.raises(Unavailable) as caught:
        await encoder.encode("builtin", ["a"])
    assert "secret" not in caught.value.detail
    assert isinstance(caught.value.__cause__, error)


async def test_a_load_that_fails_is_unavailable_and_tried_again(opened: Callable[..., QueryEncoder]) -> None:
    loads: list[str] = []

    def load(model: str) -> Recorder:
        loads.append(model)
        if len(loads) == 1:
            raise OSError("no space")
        return Recorder()

    encoder = opened(load)
    with pytest.raises(Unavailable):
        await encoder.encode("builtin", ["a"])
    assert (await encoder.encode("builtin", ["ab"])).tolist() == [[2]]


async def test_a_model_that_is_not_there_keeps_its_own_error(opened: Callable[..., QueryEncoder]) -> None:
    def load(model: str) -> Recorder:
        raise NotFound(f"there is no model {model}")

    with pytest.raises(NotFound):
        await opened(load).encode("mine", ["a"])


async def test_a_caller_who_left_the_queue_costs_nothing(opened: Callable[..., QueryEncoder]) -> None:
    recorder = Recorder()
    recorder.held.clear()
    encoder = opened(lambda _: recorder, threads=1)
    first = asyncio.create_task(encoder.encode("builtin", ["first"]))
    assert await asyncio.to_thread(recorder.entered.wait, LIMIT_S)
    left = asyncio.create_task(encoder.encode("builtin", ["left"]))
    while not encoder._waiting:  # noqa: ASYNC110 - the queue tells nobody that somebody joined it
        await asyncio.sleep(0)
    left.cancel()
    stayed = asyncio.create_task(encoder.encode("builtin", ["stayed"]))
    await asyncio.gather(left, return_exceptions=True)
    recorder.held.set()
    await asyncio.gather(first, stayed)
    assert recorder.texts == ["first", "stayed"]
