"""Logits by content: what shares a key and what never does, the byte budget, a real Redis that comes and goes."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts import CrossEncoderFacts
from services.reranking.cache import ENTRY_BYTES, MemoryCache, TieredCache, pair_keys
from services.reranking.redis_cache import RedisCache

FACTS = CrossEncoderFacts("m", "r1", "int8", "t1", (), (), ())
START_LIMIT_S = 20


def keys(count: int, start: int = 0) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in range(start, start + count)]


def logits(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def key(
    owner: str = "t_a", facts: CrossEncoderFacts = FACTS, query: bytes = b"qqqq", passage: bytes = b"pppp"
) -> bytes:
    return pair_keys([owner], facts, query, [passage])[0]


def test_whatever_decides_a_logit_or_whose_it_is_decides_the_key() -> None:
    others = [
        key(owner="t_b"),
        key(facts=replace(FACTS, revision="r2")),
        key(facts=replace(FACTS, tokenizer="t2")),
        key(facts=replace(FACTS, dtype="bf16")),
        key(query=b"QQQQ"),
        key(passage=b"PPPP"),
    ]
    assert len({key(), *others}) == 7
    assert key() == key(facts=replace(FACTS, reference="another name of the same weights"))


@given(st.binary(max_size=12), st.binary(max_size=12), st.binary(max_size=12), st.binary(max_size=12))
def test_no_text_can_pose_as_another_by_moving_the_border(q1: bytes, p1: bytes, q2: bytes, p2: bytes) -> None:
    assert (key(query=q1, passage=p1) == key(query=q2, passage=p2)) == ((q1, p1) == (q2, p2))


def test_subscribers_of_a_shared_collection_share_its_keys_and_nothing_else() -> None:
    mixed = pair_keys(["t_owner/wiki", "t_a"], FACTS, b"q", [b"p", b"p"])
    other = pair_keys(["t_owner/wiki", "t_b"], FACTS, b"q", [b"p", b"p"])
    assert mixed[0] == other[0]
    assert mixed[1] != other[1]
    assert mixed[0] != mixed[1]


async def test_the_least_recently_used_goes_first() -> None:
    cache = MemoryCache(3 * ENTRY_BYTES)
    await cache.put(keys(3), logits(1, 2, 3))
    await cache.get(keys(1))
    await cache.put(keys(1, start=3), logits(4))
    np.testing.assert_array_equal(await cache.get(keys(4)), logits(1, np.nan, 3, 4))


async def test_no_budget_remembers_nothing() -> None:
    cache = MemoryCache(0)
    await cache.put(keys(2), logits(1, 2))
    assert np.isnan(await cache.get(keys(2))).all()


async def test_the_budget_holds_in_real_bytes() -> None:
    budget = 4 * 1024 * 1024
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = MemoryCache(budget)
        for start in range(0, 60_000, 500):
            await cache.put(keys(500, start), np.arange(start, start + 500, dtype=np.float32))
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held <= budget
    assert held > budget / 4, "the estimate wastes little"


@contextmanager
def server(port: int, folder: Path) -> Iterator[None]:
    """A real Redis or Valkey on loopback."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("no Redis is installed: apt-get install redis-server")
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            limit = time.monotonic() + START_LIMIT_S
            while not _listens(port):
                assert time.monotonic() < limit, "Redis did not start"
                time.sleep(0.02)
            yield
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.redis
async def test_replicas_share_logits_through_redis(port: int, tmp_path: Path) -> None:
    with server(port, tmp_path):
        one, two = (RedisCache(f"redis://127.0.0.1:{port}", timeout_s=5) for _ in range(2))
        await one.put(keys(2), logits(1.5, -2.25))
        await one.written()
        tiered = TieredCache(MemoryCache(1024 * ENTRY_BYTES), two)
        np.testing.assert_array_equal(await tiered.get(keys(3)), logits(1.5, -2.25, np.nan))
        assert 0 < await two._redis.ttl(b"fathom:logit:" + keys(1)[0]) <= 7 * 24 * 3600
        await one.close()
        await two.close()
    np.testing.assert_array_equal(await tiered.get(keys(2)), logits(1.5, -2.25))


@pytest.mark.redis
async def test_a_redis_that_is_away_costs_hits_and_comes_back(port: int, tmp_path: Path) -> None:
    cache = RedisCache(f"redis://127.0.0.1:{port}", timeout_s=5)
    for _ in range(6):  # one more than opens the breaker
        await cache.put(keys(1), logits(1))
        await cache.written()
        assert np.isnan(await cache.get(keys(1))).all()
    with server(port, tmp_path):
        async with asyncio.timeout(START_LIMIT_S):
            while np.isnan(await cache.get(keys(1)))[0]:
                await cache.put(keys(1), logits(1))
                await cache.written()
                await asyncio.sleep(0.05)
        await cache.close()


@pytest.mark.redis
async def test_nothing_that_redis_holds_under_our_keys_is_trusted_blindly(port: int, tmp_path: Path) -> None:
    with server(port, tmp_path):
        cache = RedisCache(f"redis://127.0.0.1:{port}", timeout_s=5)
        await cache._redis.set(b"fathom:logit:" + keys(1)[0], b"not a float")
        assert np.isnan(await cache.get(keys(1))).all()
        await cache.close()
