"""The generated answer on a real vLLM engine with a tiny random checkpoint: what its weights cannot spoil.

    python -m benchmarks.generation [--generations 2000] [--cancels 200] [--kills 20] [--only grammar stream …]

A platform is started as by `fathom up --generator` on a model that this command makes; a tenant gets these docs.
Prints one JSON document:

    grammar     generations at temperature 1.5 that reached their end: markers that were not shown, lines that do not
                parse
    stream      milliseconds from the engine's end of a line to its `token` event, in the gateway's process
    throughput  output tokens a second at concurrency 16 with 256-token answers through `…/query` (rerank never), beside
                the same prompts straight to the engine's deployment and to `vllm serve` on this machine, in turns
    cancels     streams that were closed after their first event: requests left in the engine, memory before and after
    kills       engine or replica killed under load: requests without an answer or a clear error, orphans
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform as machine
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.generation_faults import cancels, kills
from benchmarks.generation_platform import QUESTIONS, Bench, cuts, engine, make_tenant
from cluster import local
from cluster.generators import with_generator
from cluster.platform import read_record
from cluster.ray_head import driver_environment
from jobs.evaluation.pipeline import Unrecorded
from jobs.indexing.pipeline import connect
from services.contracts import Caller, Passage, Question, Span
from services.control_plane import open_control_plane
from services.evidence.extract import ExtractiveAnswerer
from services.gateway.sse import Relay
from services.generation.answerer import GroundedAnswerer
from services.generation.engine import EngineFacts, Piece, Writing, chat_body
from services.generation.generators import Generators
from services.generation.grammar import LineReader, pattern
from services.generation.prompt import RULES, TEMPLATE_TOKENS, block, fitting, prompt_of
from services.query import Steps
from services.query import stream as line
from services.reranking.first_stage import FirstStage
from services.retrieval.local import open_retriever
from services.settings import load_settings
from tenants.corpus.release import pinned
from tenants.ids import tenant_name
from tests.services.generation.checkpoint import make_checkpoint

CONCURRENCY = 16
ANSWER_TOKENS = 256
PARTS = ("grammar", "stream", "throughput", "cancels", "kills")


async def grammar(generations: int) -> dict[str, Any]:
    """Random weights at temperature 1.5, held to the grammar over one to six passages."""
    await engine().facts()
    turns = asyncio.Semaphore(32)
    counts = {"generations": 0, "lines": 0, "markers": 0, "not_shown": 0, "malformed": 0, "declined": 0}

    async def one(number: int) -> None:
        shown = 1 + number % 6
        text = ""
        async with turns:
            writing = Writing("Be random.", f"Number {number}", pattern(shown), 160, temperature=1.5)
            async for piece in engine().write(writing):
                text += piece.text
        # The last line is cut by the limit of tokens, not by the grammar: a line is what a line break ends.
        whole = text if text == "NONE" else text[: text.rfind("\n") + 1]
        reader = LineReader(shown)
        lines = list(reader.feed(whole))
        raw = [int(number) for number in re.findall(r"\[(\d+)\]", whole)]
        counts["generations"] += 1
        counts["lines"] += len(lines)
        counts["markers"] += len(raw)
        counts["not_shown"] += sum(not 1 <= number <= shown for number in raw)
        counts["malformed"] += reader.malformed
        counts["declined"] += reader.declined

    await asyncio.gather(*(one(number) for number in range(generations)))
    return counts


class _Timed:
    """The engine, which notes when a piece with a line's end arrives."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    async def facts(self) -> EngineFacts:
        """The engine's own."""
        return await engine().facts()

    async def count(self, texts: Sequence[str]) -> list[int]:
        """The engine's own."""
        return await engine().count(texts)

    async def write(self, writing: Writing, timeout_s: float = math.inf) -> AsyncGenerator[Piece]:
        """The engine's own, timed."""
        async for piece in engine().write(writing, timeout_s):
            if "\n" in piece.text:
                self.ended.append(time.perf_counter())
            yield piece


async def stream(bench: Bench, answers: int = 60) -> dict[str, Any]:
    """From the piece that ends a line to the server-sent event of it, both in one process."""
    settings = load_settings(Path(bench.info.data_dir) / "run" / "settings.json")
    store = open_control_plane(settings)
    scope = pinned(store.scope_of(store.get_tenant(tenant_name("bench")), settings.root))
    timed = _Timed()
    retriever = open_retriever(settings)
    generators = Generators({"vllm": timed}, lambda _: timed)

    answerer = GroundedAnswerer(ExtractiveAnswerer(retriever), generators)
    steps = Steps(retriever, FirstStage(), answerer, Unrecorded())
    waits: list[float] = []
    for number in range(answers):
        timed.ended.clear()
        question = Question(QUESTIONS[number % 3], generator="vllm", max_tokens=400, temperature=1.5)
        relay = Relay(line(question, scope, steps, Caller("bench", "bench")))
        await relay.first()
        first = True
        async for frame in relay.frames(lambda error: repr(error).encode()):
            if frame.startswith(b"event: token") and first and timed.ended:
                waits.append((time.perf_counter() - timed.ended[0]) * 1000)
                first = False
    store.close()
    return {"answers": answers, "with_a_line": len(waits), **cuts(waits, "ms")}


async def throughput(bench: Bench, answers: int) -> dict[str, Any]:
    """Tokens a second of the platform, of the deployment alone and of vLLM's own server, in turns."""
    facts = await engine().facts()
    async with httpx.AsyncClient(timeout=600) as client:
        prompts = [await _prompt_of(bench) for _ in range(4)]
        rates: dict[str, list[float]] = {"platform": [], "deployment": [], "vllm_serve": []}
        async with _vllm_serve(bench) as raw:
            for _ in range(3):
                rates["platform"].append(await _rate(answers, lambda: _by_platform(bench, client)))
                rates["deployment"].append(await _rate(answers, lambda: _by_handle(bench.chance.choice(prompts))))
                rates["vllm_serve"].append(await _rate(answers, lambda: _by_server(raw, client, bench, prompts)))
    medians = {name: round(float(np.median(values)), 1) for name, values in rates.items()}
    return {
        "model": facts.model,
        "answers": answers,
        "tokens_per_s": medians,
        "platform_of_vllm_serve": round(medians["platform"] / medians["vllm_serve"], 3),
        "platform_of_deployment": round(medians["platform"] / medians["deployment"], 3),
    }


async def _rate(answers: int, ask: Callable[[], Any]) -> float:
    turns = asyncio.Semaphore(CONCURRENCY)

    async def one() -> int:
        async with turns:
            return int(await ask())

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one() for _ in range(answers))))
    return tokens / (time.perf_counter() - began)


async def _by_platform(bench: Bench, client: httpx.AsyncClient) -> int:
    body = bench.body(max_tokens=ANSWER_TOKENS)
    answered = (await client.post(f"{bench.base}/query", json=body, headers=bench.headers)).json()
    assert answered["generator"].startswith("vllm"), answered["degraded"]
    return int(answered["usage"]["completion_tokens"])


async def _prompt_of(bench: Bench) -> Any:
    """A request as the platform makes it: evidence of a question, as much as fits, the same rules and grammar."""
    body = bench.body(generator="extractive")
    async with httpx.AsyncClient(timeout=60) as client:
        found = (await client.post(f"{bench.base}/query", json=body, headers=bench.headers)).json()

    passages = [
        Passage(
            one["chunk_id"], one["document_id"], one["title"], "", one["text"], one["collection"], 0,
            Span(0, len(one["text"])), None, None, {}, 0,
        )
        for one in found["results"]
    ]  # fmt: skip
    room = (await engine().facts()).context_tokens - ANSWER_TOKENS - TEMPLATE_TOKENS
    head, *sizes = await engine().count(
        [RULES + body["query"], *(block(n, one, {}) for n, one in enumerate(passages, 1))]
    )
    prompt = prompt_of(body["query"], passages[: fitting(sizes, room - head)])
    return Writing(prompt.system, prompt.user, pattern(prompt.shown), ANSWER_TOKENS, salt="bench")


async def _by_handle(writing: Any) -> int:
    tokens = 0
    async for piece in engine().write(writing):
        tokens = piece.completion_tokens or tokens
    return tokens


async def _by_server(url: str, client: httpx.AsyncClient, bench: Bench, prompts: list[Any]) -> int:

    body = chat_body("vllm", bench.chance.choice(prompts), structured=True)
    tokens = 0
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answered:
        async for row in answered.aiter_lines():
            if row.startswith("data: {"):
                tokens = (json.loads(row[6:]).get("usage") or {}).get("completion_tokens") or tokens
    return tokens


@asynccontextmanager
async def _vllm_serve(bench: Bench) -> AsyncGenerator[str]:
    """VLLM's own OpenAI server on the same model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = load_settings(Path(bench.info.data_dir) / "run" / "settings.json").generators["vllm"].model
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "vllm",
        "--port", str(port), "--host", "127.0.0.1", "--dtype", "bfloat16", "--enforce-eager",
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)  # noqa: ASYNC220 a benchmark's own loop
        try:
            async with httpx.AsyncClient() as client:
                while True:
                    assert server.poll() is None, "vllm serve did not start"
                    try:
                        if (await client.get(f"http://127.0.0.1:{port}/health")).status_code == httpx.codes.OK:
                            break
                    except httpx.HTTPError:
                        await asyncio.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def main() -> None:
    """Start a platform, measure it from a driver process of its own, print, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=2_000)
    parser.add_argument("--answers", type=int, default=96, help="of each of three turns of each side")
    parser.add_argument("--cancels", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--inside", nargs=2, metavar=("DATA_DIR", "KEY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(_measure(options), indent=1))
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="fathom-generation-") as folder:
        sys.exit(_around(Path(folder)))


def _around(folder: Path) -> int:
    """Ray reads its variables when it is imported: what attaches to the platform is a process of its own."""
    data_dir = str(folder / "data")
    settings = with_generator(load_settings(data_dir=data_dir), str(make_checkpoint(folder / "model")))
    info = local.up(settings)
    try:
        environment = {**os.environ, **driver_environment(info)}
        command = [sys.executable, "-m", "benchmarks.generation", *sys.argv[1:]]
        return subprocess.call([*command, "--inside", data_dir, make_tenant(settings, data_dir)], env=environment)
    finally:
        local.down(data_dir)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    data_dir, key = options.inside
    info = read_record(data_dir)
    assert info is not None
    connect(load_settings(Path(data_dir) / "run" / "settings.json"))
    bench = Bench(info, key)
    parts: dict[str, Callable[[], Any]] = {
        "grammar": lambda: grammar(options.generations),
        "stream": lambda: stream(bench),
        "throughput": lambda: throughput(bench, options.answers),
        "cancels": lambda: cancels(bench, options.cancels),
        "kills": lambda: kills(bench, options.kills),
    }
    found: dict[str, Any] = {}
    for name in options.only:
        began = time.monotonic()
        found[name] = asyncio.run(parts[name]())
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s {json.dumps(found[name])}\n")
    about = {"machine": f"{machine.processor() or machine.machine()}, {os.cpu_count()} cores"}
    return {**found, **about, "date": datetime.now(UTC).date().isoformat()}


if __name__ == "__main__":
    main()
