"""Any OpenAI-compatible server by its address: a real HTTP server on loopback that streams, refuses, hangs, dies."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from services.contracts import Question
from services.generation.engine import CONTEXT_TOKENS, EngineFacts, Refused, ServerEngine, Writing
from services.generation.generators import Generators
from tenants.errors import DeadlineExceeded, Overloaded, Unavailable
from tests import fakes
from tests.services.generation.scripted import ScriptedEngine

QUESTION = Question("Anything?")
WRITING = Writing("rules", "evidence", "(NONE)", 16, salt="s")


@dataclass
class Server:
    """Speaks OpenAI's protocol as vLLM does; `status` refuses, `hangs` never ends, `cuts` breaks off."""

    status: int = 200
    hangs: bool = False
    cuts: bool = False
    tokenizes: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def models(self, request: Request) -> Response:
        if self.status != 200:
            return JSONResponse({"error": {"message": "no"}}, self.status)
        return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 512}]})

    async def tokenize(self, request: Request) -> Response:
        if not self.tokenizes:
            return JSONResponse({"detail": "Not Found"}, 404)
        return JSONResponse({"count": len((await request.json())["prompt"].split())})

    async def chat(self, request: Request) -> Response:
        self.keys.append(request.headers["authorization"])
        self.bodies.append(await request.json())
        if self.status != 200:
            return JSONResponse({"error": {"message": "no"}}, self.status)
        return StreamingResponse(self._chunks(), media_type="text/event-stream")

    async def _chunks(self) -> AsyncGenerator[str]:
        try:
            for text in ("Pumps ", "move [1]\n"):
                yield self._chunk(choices=[{"index": 0, "delta": {"content": text}}])
            if self.hangs:
                await asyncio.Event().wait()
            if self.cuts:
                raise RuntimeError("the server dies here")
            yield self._chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
            yield "data: [DONE]\n\n"
        finally:
            self.left.set()

    def _chunk(self, **fields: Any) -> str:
        whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **fields}
        return f"data: {json.dumps(whole)}\n\n"


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[None]:
    routes = [
        Route("/v1/models", server.models),
        Route("/tokenize", server.tokenize, methods=["POST"]),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
    ]
    with socket.create_server(("127.0.0.1", 0)) as door:  # who comes before the server runs waits in its queue
        config = uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off")
        runner = uvicorn.Server(config)
        task = asyncio.create_task(runner.serve(sockets=[door]))
        server.url = f"http://127.0.0.1:{door.getsockname()[1]}/v1"
        try:
            yield
        finally:
            runner.should_exit = runner.force_exit = True
            await task


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    async with serving(found):
        yield found


@pytest.fixture
async def engine(server: Server) -> AsyncIterator[ServerEngine]:
    made = ServerEngine(server.url, "m", "secret", structured=True)
    yield made
    await made.close()


async def text_of(engine: ServerEngine, timeout_s: float = 60) -> str:
    return "".join([piece.text async for piece in engine.write(WRITING, timeout_s)])


async def test_a_stream_with_its_cost(server: Server, engine: ServerEngine) -> None:
    pieces = [piece async for piece in engine.write(WRITING)]
    assert "".join(piece.text for piece in pieces) == "Pumps move [1]\n"
    assert (pieces[-1].prompt_tokens, pieces[-1].completion_tokens) == (7, 3)
    (body,) = server.bodies
    assert body["structured_outputs"] == {"regex": "(NONE)"}
    assert body["cache_salt"] == "s"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert server.keys == ["Bearer secret"]


async def test_a_server_that_is_no_vllm_gets_only_what_openai_knows(server: Server) -> None:
    engine = ServerEngine(server.url, "m")
    await text_of(engine)
    assert not {"structured_outputs", "cache_salt"} & set(server.bodies[0])
    await engine.close()


async def test_facts_and_tokens(server: Server, engine: ServerEngine) -> None:
    assert await engine.facts() == EngineFacts("m", 512)
    assert await engine.count(["one two", ""]) == [2, 0]
    server.tokenizes = False
    assert await engine.count(["x" * 25]) == [10], "an estimate on the high side"
    other = ServerEngine(server.url, "another")
    assert (await other.facts()).context_tokens == CONTEXT_TOKENS
    await other.close()


@pytest.mark.parametrize(
    ("status", "error"), [(429, Overloaded), (500, Unavailable), (401, Unavailable), (400, Refused)]
)
async def test_refusals_are_the_house_s_errors(server: Server, engine: ServerEngine, status: int, error: Any) -> None:
    server.status = status
    with pytest.raises(error) as raised:
        await text_of(engine)
    assert "secret" not in str(raised.value)


async def test_a_server_that_hangs_is_left_in_time(server: Server, engine: ServerEngine) -> None:
    server.hangs = True
    with pytest.raises(DeadlineExceeded):
        await text_of(engine, timeout_s=0.5)
    await asyncio.wait_for(server.left.wait(), 30)


async def test_a_server_that_dies_in_the_middle_is_told(server: Server, engine: ServerEngine) -> None:
    server.cuts = True
    with pytest.raises(Unavailable):
        await text_of(engine)


async def test_nobody_there_opens_the_breaker() -> None:
    engine = ServerEngine("http://127.0.0.1:9/v1", "m")
    for _ in range(5):
        with pytest.raises(Unavailable):
            await engine.facts()
    with pytest.raises(Unavailable, match="rests"):
        await engine.facts()
    await engine.close()


async def test_leaving_a_stream_ends_the_request(server: Server, engine: ServerEngine) -> None:
    server.hangs = True
    async with aclosing(engine.write(WRITING)) as pieces:
        async for piece in pieces:
            if piece.text:
                break
    await asyncio.wait_for(server.left.wait(), 30)


async def test_a_generator_that_comes_back_is_chosen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.generation.generators.FACTS_S", 0.0)
    engine = ScriptedEngine(away=Unavailable("not yet"))
    generators = Generators({"vllm": engine}, lambda _: engine)
    question, scope = QUESTION, fakes.scope()
    assert await generators.choose(scope, question) is None
    engine.away = None
    chosen = None
    for _ in range(100):
        chosen = chosen or await generators.choose(scope, question)
        await asyncio.sleep(0.01)
    assert chosen is not None
    assert chosen.name == "vllm:scripted"


async def test_a_tenant_s_own_server_and_adapter() -> None:
    own, shared = ScriptedEngine(), ScriptedEngine()
    generators = Generators({"small": shared, "vllm": shared}, lambda _: own, {"small": {"acme"}})
    mine = fakes.scope(generator={"openai": {"base_url": "http://x/v1", "model": "m"}})
    chosen = await generators.choose(mine, QUESTION)
    assert chosen is not None
    assert (chosen.engine, chosen.name) == (own, "openai:scripted")
    named = await generators.choose(fakes.scope(generator="small"), QUESTION)
    assert named is not None
    assert (named.engine, named.adapter) == (shared, "adapter-acme")
    assert await generators.choose(fakes.scope(generator="unknown"), QUESTION) is None
    assert await generators.choose(fakes.scope(), replace(QUESTION, generator="typo")) is None
    asked = await generators.choose(fakes.scope(), replace(QUESTION, generator="vllm"))
    assert asked is not None
    assert generators.names == ("small", "vllm")
    assert (generators.knows("small"), generators.knows("typo")) == (True, False)
