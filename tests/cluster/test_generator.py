"""A platform with a real vLLM engine on its CPUs: answers, streams, callers who leave, an engine that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cluster.platform import read_record
from cluster.processes import MARK, is_alive
from cluster.ray_head import driver_environment
from tests.conftest import ROOT, CommandLine
from tests.services.generation.checkpoint import make_adapter, make_checkpoint

pytestmark = [pytest.mark.cluster, pytest.mark.vllm]

QUESTION = "How do I rotate a key?"
KEYS = "# Keys\n\nTo rotate a key, create a new one, switch the clients over, then revoke the old one.\n"
PORTS = "# Ports\n\nThe platform listens on port 8000 of the loopback interface unless another port is chosen.\n"
TENANT = {"answer": {"unsupported": "mark"}}  # nonsense is shown, marked: so there is a stream to look at
WAIT_S = 240.0
WRITE_TWICE = """
import asyncio, json, sys
import ray
from services.generation.engine import Writing, adapter_name
from services.handles import GENERATOR_DEPLOYMENT, RemoteEngine, generator_application

async def main():
    engine = RemoteEngine(generator_application("vllm"), GENERATOR_DEPLOYMENT)
    await engine.facts()
    async def write(adapter):
        writing = Writing("rules", "evidence", "[a-z ]{40}", 60, adapter=adapter)
        return "".join([piece.text async for piece in engine.write(writing)])
    print(json.dumps([await write(None), await write(None), await write(adapter_name("beta"))]))

ray.init(address=sys.argv[1], namespace="fathom", log_to_driver=False, logging_level="ERROR")
asyncio.run(main())
"""


@dataclass(frozen=True)
class Writer:
    """A platform whose generator is the tiny checkpoint."""

    url: str
    key: str
    cli: CommandLine

    @property
    def base(self) -> str:
        return f"{self.url}/t/acme/v1"

    def ask(self, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        answered = httpx.post(f"{self.base}/query", json={"query": QUESTION, **body}, headers=headers, timeout=WAIT_S)
        assert answered.status_code == 200, answered.text
        return answered.json()

    def generator(self) -> Any:
        """The generator's line of /readyz."""
        parts = httpx.get(f"{self.url}/readyz", timeout=WAIT_S).json()["components"]
        return next(part for part in parts if part["name"] == "generator vllm")

    def engines(self) -> list[int]:
        """This platform's engine processes."""
        mark = f"{MARK}=".encode()
        own = json.loads((self.cli.data_dir / "run" / "platform.json").read_text())["platform"]["id"].encode()
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and b"EngineCore" in (folder / "cmdline").read_bytes():
                    found += [int(folder.name)] * (mark + own in (folder / "environ").read_bytes())
            except OSError:
                continue  # it ended while it was looked at
        return found


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    model = make_checkpoint(tmp_path_factory.mktemp("model"))
    documents = tmp_path_factory.mktemp("documents")
    (documents / "keys.md").write_text(KEYS)
    (documents / "ports.md").write_text(PORTS)
    config = documents.parent / "tenant.json"
    config.write_text(json.dumps(TENANT))
    cli = CommandLine(tmp_path_factory.mktemp("writer"), {"HF_HUB_OFFLINE": "1"})
    settings = documents.parent / "fathom.yaml"
    adapter = make_adapter(tmp_path_factory.mktemp("adapter"))
    settings.write_text(f"generators: {{vllm: {{model: none, adapters: {{beta: {adapter}}}}}}}")
    try:
        info = cli.ok("up", "--config", str(settings), "--generator", str(model))
        made = cli.ok("tenant", "create", "acme", "--config", str(config))
        cli.ok("index", "acme", str(documents))
        yield Writer(info["url"], made["api_key"], cli)
    finally:
        cli("down")


def until(reached: Any, what: str) -> None:
    """Wait for a state that must come."""
    limit = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < limit, f"never: {what}"
        time.sleep(0.2)


def test_auto_takes_the_generator_that_is_up(writer: Writer) -> None:
    assert writer.generator()["ready"]
    answer = writer.ask(max_tokens=40)
    assert answer["generator"].startswith("vllm:")
    assert answer["usage"]["completion_tokens"] > 0
    assert "generator_unavailable" not in answer["degraded"]
    assert writer.ask(generator="extractive")["generator"] == "extractive"
    record = httpx.get(
        f"{writer.base}/queries/{answer['query_id']}", headers={"Authorization": f"Bearer {writer.key}"}, timeout=WAIT_S
    ).json()
    assert record["answer"]["prompt"] == "evidence-first-1"


def test_openai_streams_lines_and_every_marker_was_shown(writer: Writer) -> None:
    with openai.OpenAI(base_url=writer.base, api_key=writer.key, timeout=WAIT_S) as client:
        assert "vllm" in {model.id for model in client.models.list()}
        stream = client.chat.completions.create(
            model="vllm",
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            temperature=1.5,
            max_tokens=400,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    answer = next(
        extra["fathom"] for chunk in chunks if chunk.choices and (extra := chunk.choices[0].delta.model_extra)
    )
    assert text == answer["answer"]
    assert answer["grounded"] in ("partial", "abstained")
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_a_tenant_has_an_adapter_of_its_own(writer: Writer) -> None:
    """The same request to the engine with and without it, from a driver on the platform's Ray."""
    info = read_record(str(writer.cli.data_dir))
    assert info is not None
    found = subprocess.run(
        [sys.executable, "-c", WRITE_TWICE, info.ray_address],
        env=writer.cli.environment() | driver_environment(info),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    plain, again, adapted = json.loads(found.stdout.splitlines()[-1])
    assert plain == again
    assert adapted
    assert plain != adapted


def test_a_caller_who_leaves_frees_the_engine(writer: Writer) -> None:
    headers = {"Authorization": f"Bearer {writer.key}"}
    body = {"query": QUESTION, "stream": True, "generator": "vllm", "max_tokens": 2_000}
    with httpx.stream("POST", f"{writer.base}/query", json=body, headers=headers, timeout=WAIT_S) as stream:
        assert next(stream.iter_lines()) == "event: evidence"
        until(lambda: writer.generator()["detail"].endswith(", 1 answers at work"), "the engine at work")
    until(lambda: writer.generator()["detail"].endswith(", 0 answers at work"), "the engine at rest")


def test_a_killed_engine_is_told_and_comes_back(writer: Writer) -> None:
    (engine,) = writer.engines()
    headers = {"Authorization": f"Bearer {writer.key}"}
    body = {"query": QUESTION, "stream": True, "generator": "vllm", "max_tokens": 2_000}
    with httpx.stream("POST", f"{writer.base}/query", json=body, headers=headers, timeout=WAIT_S) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: evidence"
        os.kill(engine, signal.SIGKILL)
        events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert events[-1] in ("answer", "error")
    meanwhile = writer.ask(generator="vllm")
    assert meanwhile["generator"] == "extractive" or "vllm" in meanwhile["generator"]
    if meanwhile["generator"] == "extractive":
        assert "generator_unavailable" in meanwhile["degraded"]
    until(lambda: writer.engines() and engine not in writer.engines() and writer.generator()["ready"], "a new engine")
    until(lambda: writer.ask(max_tokens=20)["generator"].startswith("vllm:"), "answers by the new engine")


def test_down_leaves_no_engine_behind(writer: Writer) -> None:
    engines = writer.engines()
    assert engines
    writer.cli("down")
    assert not [engine for engine in engines if is_alive(engine)]
