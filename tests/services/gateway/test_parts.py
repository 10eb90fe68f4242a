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
from tenants.errors import DeadlineExceeded, InvalidInput, NotFound

ALLOW = ("https://docs.example.com/public/", "s3://bucket/docs")


async def test_a_silent_stream_pings_and_loses_nothing() -> None:
    release = asyncio.Event()

    async def slow():
        yield b"one"
        await release.wait()
        yield b"two"

    seen = []
    async for chunk in sse.with_pings(slow(), every_s=0.001):
        seen.append(chunk)
        if chunk == sse.PING:
            release.set()
    assert seen[0] == b"one"
    assert seen[-1] == b"two"
    assert sse.PING in seen


async def test_closing_a_stream_closes_what_feeds_it() -> None:
    closed = asyncio.Event()

    async def endless():
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    stream = sse.with_pings(endless(), every_s=0.001)
    assert await anext(stream) == b"one"
    assert await anext(stream) == sse.PING
    await stream.aclose()
    assert closed.is_set()


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
