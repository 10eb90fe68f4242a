"""The gateway's pure parts: streams, cursors, URLs, request ids; and the breaker in front of a deployment."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import deadline
from services.breaker import Breaker
from services.gateway import sse
from services.gateway.context import request_id
from services.gateway.cursors import decode, encode
from services.gateway.ingest_urls import refusal
from services.gateway.problems import InternalError, translate
from services.result import StreamEvent
from tenants.errors import DeadlineExceeded, InvalidInput, NotFound

ALLOW = ("https://docs.example.com/public/", "s3://bucket/docs")


def failed(error: Exception) -> bytes:
    return type(error).__name__.encode()


async def test_a_silent_stream_pings_and_loses_nothing() -> None:
    release = asyncio.Event()

    async def slow():
        yield StreamEvent("token", {"text": "one"})
        await release.wait()
        yield StreamEvent("token", {"text": "two"})
        raise RuntimeError

    relay = sse.Relay(slow())
    seen = [await relay.first()]
    async for frame in relay.frames(failed, ping_s=0.001):
        seen.append(frame)
        if frame == sse.PING:
            release.set()
    assert seen[0] == StreamEvent("token", {"text": "one"})
    assert seen[1] == sse.PING
    assert seen[-2:] == [sse.event("token", {"text": "two"}), b"RuntimeError"]


async def test_what_feeds_a_stream_ends_though_nobody_reads() -> None:
    ended = asyncio.Event()

    async def whole():
        try:
            for _ in range(sse.QUEUED - 1):
                yield StreamEvent("token", {})
        finally:
            ended.set()

    relay = sse.Relay(whole())
    await ended.wait()
    relay.close()


async def test_a_full_stream_waits_only_until_its_deadline() -> None:
    ended = asyncio.Event()

    async def endless():
        try:
            async with deadline.enforced():
                while True:
                    yield StreamEvent("token", {})
        finally:
            ended.set()

    deadline.start(0.01)
    relay = sse.Relay(endless(), queued=2)
    await ended.wait()
    assert await relay.first() is not None
    relay.close()


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_client_that_leaves_or_stalls_ends_its_stream(leaves: bool) -> None:
    closed, sending, forever = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def endless():
        try:
            while True:
                yield StreamEvent("token", {})
        finally:
            closed.set()

    async def receive():
        await (sending if leaves else forever).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sending.set()
        await forever.wait()

    relay = sse.Relay(endless(), queued=2)
    answer = sse.EventStream(await relay.first(), relay, failed, stall_s=60 if leaves else 0.01)
    await answer({"type": "http"}, receive, send)
    await closed.wait()


def test_an_event_is_one_data_line() -> None:
    assert sse.event("token", {"text": "a\nb"}) == b'event: token\ndata: {"text":"a\\nb"}\n\n'


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_a_cursor_comes_back(text: str) -> None:
    assert decode(encode(text)) == text


@pytest.mark.parametrize("cursor", ["!!", "a", "=", "/w", "_w"])
def test_a_made_up_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput):
        decode(cursor)


@pytest.mark.parametrize(
    "source", ["https://docs.example.com/public/a.pdf?x=1", "s3://bucket/docs", "s3://bucket/docs/a"]
)
def test_an_allowed_source_passes(source: str) -> None:
    assert refusal(source, ALLOW) is None


@pytest.mark.parametrize(
    "source",
    [
        "https://docs.example.com/public/../secret",
        "https://docs.example.com/public/%2e%2e/secret",
        "https://docs.example.com/public/%252e%252e/secret",
        "https://docs.example.com\\@evil.net/public/",
        "s3://bucket/docs-of-another",
        "ftp://docs.example.com/public/a",
        "//docs.example.com/public/a",
        "https:///public/a",
        "https://docs.example.com:0/public/a",
        "https://[::1]/public/a",
    ],
)
def test_a_source_outside_the_list_is_refused(source: str) -> None:
    assert refusal(source, ALLOW)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f.1", "017700000001", "0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fd00::1]", "[fe80::1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost", "LOCALHOST.", "a.localhost", "metadata.google.internal",
        "printer.local", "intranet", "224.0.0.1", "255.255.255.255",
    ],
)  # fmt: skip
def test_a_private_host_is_refused_even_when_listed(host: str) -> None:
    assert refusal(f"http://{host}/a", (f"http://{host}/",))


@given(st.text())
def test_a_request_id_is_always_a_harmless_header(given_id: str) -> None:
    made = request_id(given_id)
    assert 1 <= len(made) <= 128
    assert made.isascii()
    assert made.isprintable()
    assert " " not in made


def test_the_breaker_opens_rests_tries_once_and_closes() -> None:
    now = [0.0]
    breaker = Breaker(failures=2, rest_s=10, clock=lambda: now[0])
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert (breaker.allows(), breaker.rest_s) == (False, 10)
    now[0] = 10
    assert (breaker.allows(), breaker.allows()) == (True, False)
    breaker.failed()
    assert not breaker.allows()
    now[0] = 25
    assert breaker.allows()
    breaker.succeeded()
    assert (breaker.allows(), breaker.allows(), breaker.rest_s) == (True, True, 0)


async def test_the_deadline_cancels_what_runs_over() -> None:
    deadline.start(0.01)
    with pytest.raises(DeadlineExceeded):
        async with deadline.enforced():
            await asyncio.Event().wait()
    with pytest.raises(DeadlineExceeded):
        deadline.check()


def test_only_known_errors_keep_their_words() -> None:
    assert translate(NotFound("there is no such thing")).detail == "there is no such thing"
    assert isinstance(translate(RuntimeError("a secret")), InternalError)
    assert "secret" not in translate(RuntimeError("a secret")).detail
