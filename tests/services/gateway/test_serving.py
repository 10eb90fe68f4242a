"""The application in Ray Serve behind HAProxy, for real, split: Gateway → Retriever, Rerankers, Indexer.

The single topology is what every other cluster test asks.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import processes
from cluster.local import down, up
from cluster.platform import PlatformInfo
from services.control_plane import operator_key
from services.settings import Ingest, Replicas, Retrieval, Settings
from tests.services.reranking.tiny import CONFIGS, save_tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1_500)]

LIMIT_S = 600  # against hanging; a busy machine takes its time

MODELS = Path(__file__).resolve().parents[3] / ".pytest_cache" / "models"  # compiled once for many runs
SOURCE = "https://docs.example.invalid/"
DOCUMENTS = [
    {"id": "paris", "text": "Paris is the capital of France. It lies on the Seine.", "metadata": {"kind": "city"}},
    {"id": "rome", "text": "Rome is the capital of Italy. It lies on the Tiber.", "metadata": {"kind": "city"}},
]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PlatformInfo, httpx.Client]]:
    settings = Settings(
        data_dir=str(tmp_path_factory.mktemp("split")),
        port=0,
        topology="split",
        model_dir=str(MODELS),
        ingest=Ingest(allow=(SOURCE,)),
        gateway=Replicas(max_ongoing=8, max_queued=8),
        request_timeout_s=300,
        retrieval=Retrieval(leg_timeout_s=120),
    )
    try:
        info = up(settings)
        headers = {"Authorization": f"Bearer {operator_key(settings)}"}
        with httpx.Client(base_url=info.url, headers=headers, timeout=LIMIT_S, trust_env=False) as client:
            client.post("/admin/v1/tenants", json={"name": "acme"}).raise_for_status()
            client.post("/t/acme/v1/documents", json={"documents": DOCUMENTS}).raise_for_status()
            yield info, client
    finally:
        down(settings.data_dir)


def test_what_is_indexed_is_found_and_cited(split) -> None:
    _, client = split
    found = client.post("/t/acme/v1/search", json={"query": "capital of Italy"}).json()
    assert [hit["document_id"] for hit in found["results"]] == ["rome", "paris"]
    answer = client.post("/t/acme/v1/query", json={"query": "What is the capital of Italy?"}).json()
    assert answer["citations"][0]["quote"] in DOCUMENTS[1]["text"]
    assert client.get(f"/t/acme/v1/queries/{answer['query_id']}").status_code == 200
    wanted = {"field": "document_id", "op": "eq", "value": "paris"}
    filtered = client.post("/t/acme/v1/search", json={"query": "capital of Italy", "filter": wanted}).json()
    assert [hit["document_id"] for hit in filtered["results"]] == ["paris"]
    page = client.get("/t/acme/v1/documents").json()
    assert [(row["id"], row["metadata"]) for row in page["documents"]] == [
        ("paris", {"kind": "city"}),
        ("rome", {"kind": "city"}),
    ]


def test_a_stream_arrives_event_by_event(split) -> None:
    _, client = split
    body = {"query": "What is the capital of Italy?", "stream": True}
    with client.stream("POST", "/t/acme/v1/query", json=body) as answer:
        lines = list(answer.iter_lines())
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert (names[0], names[-1]) == ("evidence", "answer")
    last = json.loads([line for line in lines if line.startswith("data: ")][-1].removeprefix("data: "))
    assert last["grounded"] in ("full", "partial")


def test_keys_ids_and_limits_hold_behind_haproxy(split) -> None:
    info, client = split
    with httpx.Client(base_url=info.url, timeout=LIMIT_S, trust_env=False) as stranger:
        refused = stranger.post("/t/acme/v1/search", json={"query": "x"}, headers={"X-Request-Id": "mine-1"})
        large = stranger.post("/t/acme/v1/documents", content=b"x" * (33 * 1024 * 1024))
    assert (refused.status_code, refused.headers["x-request-id"]) == (401, "mine-1")
    assert refused.json()["request_id"] == "mine-1"
    assert large.status_code == 413
    long = client.get("/t/acme/v1/documents", params={"cursor": "é" * 8_000})
    assert (long.status_code, long.json()["code"]) == (422, "invalid_field")
    hostile = client.get("/livez", headers={"X-Request-Id": "a b"})
    assert hostile.headers["x-request-id"].startswith("req_")


def test_a_job_runs_through_rays_jobs_api(split) -> None:
    _, client = split
    refused = client.post("/t/acme/v1/jobs", json={"sources": ["/etc"]})
    assert refused.status_code == 422
    # Nothing answers at a name of .invalid (RFC 6761): the job has to run, to fail honestly, and to say so.
    job_id = client.post("/t/acme/v1/jobs", json={"sources": [f"{SOURCE}a.jsonl"]}).json()["job_id"]
    limit = time.monotonic() + LIMIT_S
    while (job := client.get(f"/t/acme/v1/jobs/{job_id}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < limit, job
        time.sleep(0.5)
    assert job["state"] in ("failed", "succeeded")
    assert job["error"] or job["errors"]
    assert client.get("/t/acme/v1/versions").json()["versions"][0]["index_version"] == 1


def test_only_loopback_listens(split) -> None:
    info, _ = split
    ours = {member.pid for member in processes.members(info.id)}
    listed = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        if any(f"pid={pid}," in line for pid in ours):
            assert "127.0.0.1" in line.split()[3], line


def test_overload_is_refused_in_the_contracts_words(split) -> None:
    info, client = split
    body = json.dumps({"query": "What is the capital of Italy?"})
    request = (
        f"POST /t/acme/v1/query HTTP/1.1\r\nHost: fathom\r\nConnection: close\r\n"
        f"Authorization: {client.headers['authorization']}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    # Written to sockets at once: an HTTP client is too slow to overload what it shares two cores with.
    with ExitStack() as stack:
        place = ("127.0.0.1", info.ports.http)
        sockets = [stack.enter_context(socket.create_connection(place, timeout=LIMIT_S)) for _ in range(100)]
        for each in sockets:
            each.sendall(request.encode())
        answers = [_answer(each) for each in sockets]
    refused = [(headers, problem) for status, headers, problem in answers if status != 200]
    assert 0 < len(refused) < len(answers)
    assert {status for status, _, _ in answers} == {200, 503}
    for headers, problem in refused:
        assert headers["content-type"] == "application/problem+json"
        assert int(headers["retry-after"]) >= 1
        assert (problem["status"], problem["retryable"]) == (503, True)
        assert problem["request_id"] == headers["x-request-id"]


@pytest.fixture(scope="module")
def tiny(split, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tenant with cross-encoders of its own, of random weights: they prove the way to them, not the order."""
    _, client = split
    small, large = (
        str(save_tiny(tmp_path_factory.mktemp(name), CONFIGS["bert"])) for name in ("tiny-small", "tiny-large")
    )
    # A budget that a machine which two other suites share does not overstep by itself.
    config = {"rerankers": {"small": small, "large": large}, "rerank": {"latency_budget_ms": 3_000, "price": 0}}
    client.post("/admin/v1/tenants", json={"name": "tiny", "config": config}).raise_for_status()
    client.post("/t/tiny/v1/documents", json={"documents": DOCUMENTS}).raise_for_status()
    _until(lambda: _search(client, "tiny")["degraded"] == [], "the tenant's own cross-encoders were not loaded")
    return large


def test_a_tenants_own_cross_encoder_scores_and_remembers(split, tiny: str) -> None:
    _, client = split
    first = _search(client, "tiny", query="which city lies on the Tiber")
    assert (first["rerank"]["decision"], first["rerank"]["pairs"], first["degraded"]) == ("full", 2, [])
    assert all(hit["scores"]["rerank"] is not None for hit in first["results"])
    again = _search(client, "tiny", query="which city lies on the Tiber")
    assert (again["rerank"]["decision"], again["rerank"]["pairs"]) == ("cached", 0)
    body = {"query": "which city lies on the Tiber", "documents": [each["text"] for each in DOCUMENTS]}
    ranked = client.post("/t/tiny/v2/rerank", json=body).json()
    assert ranked["model"].startswith(tiny)
    logits = {hit["document_id"]: hit["scores"]["rerank"] for hit in first["results"]}
    scores = {DOCUMENTS[result["index"]]["id"]: result["relevance_score"] for result in ranked["results"]}
    expected = {name: pytest.approx(1 / (1 + math.exp(-logit))) for name, logit in logits.items()}
    assert scores == expected, "the same model over both doors"


def test_a_killed_reranker_costs_the_reranking_and_comes_back(split, tiny: str) -> None:
    info, client = split
    never = _search(client, "tiny", rerank="never")
    killed = _replica(info, "RerankerLarge")
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    asked = itertools.count()

    def degraded() -> bool:
        found = _search(client, "tiny", query=f"capital of Italy, question {next(asked)}")
        assert set(found["degraded"]) <= {"reranker_unavailable", "reranker_timeout"}
        if not found["degraded"]:
            return False
        assert found["rerank"]["certificate"] is None
        assert found["rerank"]["pairs"] == 0
        return {hit["document_id"] for hit in found["results"]} == {hit["document_id"] for hit in never["results"]}

    _until(degraded, "no answer told of the reranker that is gone")
    ready = client.get("/readyz")
    assert ready.status_code == 200, "the platform answers without it"
    _until(lambda: not degraded(), "the reranker did not come back")
    assert _replica(info, "RerankerLarge") not in (None, killed)


def test_a_killed_gateway_answers_503_and_comes_back(split) -> None:
    info, client = split
    gateways = [each for each in processes.members(info.id) if "Gateway" in _command(each.pid)]
    done = threading.Event()
    odd: list[object] = []

    def keep_asking() -> None:
        with httpx.Client(base_url=info.url, headers=dict(client.headers), timeout=LIMIT_S, trust_env=False) as one:
            while not done.wait(0.05):
                answer = one.post("/t/acme/v1/search", json={"query": "capital of Italy"})
                if answer.status_code != 200 and answer.headers["content-type"] != "application/problem+json":
                    odd.append((answer.status_code, answer.text))

    asker = threading.Thread(target=keep_asking)
    asker.start()
    os.kill(gateways[0].pid, signal.SIGKILL)
    limit = time.monotonic() + LIMIT_S
    try:
        while _gateway(info) in (None, gateways[0].pid) or client.get("/readyz").status_code != 200:
            assert time.monotonic() < limit, "the gateway did not come back"
    finally:
        done.set()
        asker.join()
    assert odd == []
    assert client.post("/t/acme/v1/search", json={"query": "capital of Italy"}).status_code == 200


def _answer(connection: socket.socket) -> tuple[int, dict[str, str], dict[str, object]]:
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(answer.read())


def _search(client: httpx.Client, tenant: str, query: str = "capital of Italy", **body: object) -> dict[str, Any]:
    answer = client.post(f"/t/{tenant}/v1/search", json={"query": query, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def _until(holds: Callable[[], bool], otherwise: str, limit_s: float = 240) -> None:
    limit = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < limit, otherwise
        time.sleep(0.1)


def _gateway(info: PlatformInfo) -> int | None:
    return _replica(info, "Gateway")


def _replica(info: PlatformInfo, deployment: str) -> int | None:
    return next((each.pid for each in processes.members(info.id) if deployment in _command(each.pid)), None)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
