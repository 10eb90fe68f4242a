"""Whatever a client sends, the answer is a problem with the contract's members, never a 500."""

from __future__ import annotations

import json

import httpx
import pytest

from services.gateway.middleware import Buffers
from tenants.errors import Overloaded

SEARCH = "/t/acme/v1/search"
MEMBERS = {"type", "title", "status", "detail", "code", "request_id", "retryable"}


def check(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) >= MEMBERS
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


@pytest.mark.parametrize("raw", [b"{", b"[1", b"\xff\xfe", b'{"query": NaN}', b'{"query": "\\ud800"}', b"nonsense"])
async def test_what_is_no_json_is_malformed(world, raw: bytes) -> None:
    key = world.tenant("acme")
    check(await world.client.post(SEARCH, content=raw, headers=key), 400, "malformed")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/query"),
        ({"query": ""}, "/query"),
        ({"query": "   "}, "/query"),
        ({"query": 5}, "/query"),
        ({"query": "x" * 8_193}, "/query"),
        ({"query": "x", "top_k": 0}, "/top_k"),
        ({"query": "x", "top_k": 101}, "/top_k"),
        ({"query": "x", "top_k": "10"}, "/top_k"),
        ({"query": "x", "mode": "magic"}, "/mode"),
        ({"query": "x", "topk": 3}, "/topk"),
        ({"query": "x", "filter": {"field": "secret", "op": "eq", "value": 1}}, "/filter/field"),
        ({"query": "x", "filter": {"and": []}}, "/filter/and"),
        ({"query": "x", "collections": []}, "/collections"),
        ({"query": "x", "depth": -1}, "/depth"),
    ],
)
async def test_a_bad_field_is_named(world, body: dict[str, object], pointer: str) -> None:
    key = world.tenant("acme")
    problem = check(await world.client.post(SEARCH, json=body, headers=key), 422, "invalid_field")
    assert pointer in [error["pointer"] for error in problem["errors"]]


async def test_unknown_paths_and_methods_are_problems(world) -> None:
    key = world.tenant("acme")
    check(await world.client.get("/nothing"), 404, "not_found")
    check(await world.client.get("/t/acme/v1/nothing", headers=key), 404, "not_found")
    answer = await world.client.put(SEARCH, headers=key)
    check(answer, 405, "method_not_allowed")


async def test_bad_query_parameters_are_named(world) -> None:
    key = world.tenant("acme")
    problem = check(await world.client.get("/t/acme/v1/documents?limit=zero", headers=key), 422, "invalid_field")
    assert problem["errors"][0]["pointer"] == "/limit"
    check(await world.client.get("/t/acme/v1/documents?cursor=%21%21", headers=key), 422, "invalid_field")


async def test_a_declared_length_over_the_limit_is_refused_before_the_body(world) -> None:
    key = world.tenant("acme")
    check(await world.client.post(SEARCH, content=b"x" * 270_000, headers=key), 413, "too_large")


async def test_a_chunked_body_over_the_limit_is_refused_while_it_streams(world) -> None:
    key = world.tenant("acme")
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 8_192
            yield b"x" * 8_192

    check(await world.client.post(SEARCH, content=endless(), headers=key), 413, "too_large")
    assert sent <= 256 * 1024 + 2 * 8_192


async def test_a_question_carries_less_than_a_batch(world, monkeypatch) -> None:
    monkeypatch.setattr("services.gateway.bodies.Sized.max_bytes", 1_000)
    key = world.tenant("acme")
    long = {"query": "x", "filter": {"field": "url", "op": "in", "value": ["x" * 2_000]}}
    check(await world.client.post(SEARCH, json=long, headers=key), 413, "too_large")
    chunked = world.client.build_request("POST", SEARCH, content=_parts(json.dumps(long).encode()), headers=key)
    check(await world.client.send(chunked), 413, "too_large")
    await world.put("acme", key, a="x" * 2_000)


async def _parts(raw: bytes):
    for start in range(0, len(raw), 500):
        yield raw[start : start + 500]


async def test_bytes_of_bodies_are_bounded_over_all_requests_and_given_back() -> None:
    buffers = Buffers(100, 60)
    buffers.take("acme", 60)
    with pytest.raises(Overloaded):
        buffers.take("acme", 1)
    buffers.take("other", 40)
    with pytest.raises(Overloaded):
        buffers.take("third", 1)
    buffers.give_back("acme", 60)
    buffers.take("third", 60)


async def test_a_client_that_leaves_while_it_sends_is_no_fault_of_ours(world) -> None:
    key = world.tenant("acme")
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    headers = [(b"authorization", key["Authorization"].encode())]
    scope = {"type": "http", "method": "POST", "path": SEARCH, "query_string": b"", "headers": headers}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("gateway", 80), "root_path": ""}
    await world.client._transport.app(scope, receive, send)
    assert sent == []
    assert world.metrics.requests[-1] == ("acme", "/t/{tenant}/v1/search", 0)


async def test_a_wrong_content_length_does_not_pass(world) -> None:
    key = world.tenant("acme") | {"Content-Length": "10"}
    check(await world.client.post(SEARCH, content=b"x" * 270_000, headers=key), 413, "too_large")


async def test_a_multipart_body_over_the_limit_is_refused(world) -> None:
    key = world.tenant("acme")
    files = [("files", ("big.txt", b"x" * 270_000))]
    check(await world.client.post("/t/acme/v1/documents", files=files, headers=key), 413, "too_large")


async def test_a_deep_body_is_malformed_not_a_crash(world) -> None:
    key = world.tenant("acme")
    raw = b'{"query": "x", "filter": ' + b'{"not": ' * 2_000 + b"{}" + b"}" * 2_000 + b"}"
    answer = await world.client.post(SEARCH, content=raw, headers=key)
    assert answer.status_code in (400, 422)


async def test_the_callers_request_id_is_kept_when_it_is_harmless(world) -> None:
    answer = await world.client.get("/livez", headers={"X-Request-Id": "trace-1:2.3"})
    assert answer.headers["x-request-id"] == "trace-1:2.3"
    for hostile in ("a b", "x" * 129, 'quote"', "späße"):
        answer = await world.client.get("/livez", headers={"X-Request-Id": hostile.encode("latin-1")})
        assert answer.headers["x-request-id"].startswith("req_")


async def test_a_fault_of_ours_is_a_500_problem_without_its_cause(world, monkeypatch) -> None:
    key = world.tenant("acme")

    async def fails(*arguments: object) -> None:
        raise RuntimeError("a secret cause")

    monkeypatch.setattr(world.corpus, "pinned", fails, raising=True)
    answer = await world.client.post(SEARCH, json={"query": "x"}, headers=key)
    check(answer, 500, "internal")
    assert "secret" not in answer.text
    assert world.platform.gate.running == 0


async def test_openai_routes_answer_errors_in_openais_shape(world) -> None:
    answer = await world.client.get("/t/acme/v1/models")
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    key = world.tenant("acme")
    answer = await world.client.post("/t/acme/v1/embeddings", json={"input": "x", "model": "gpt-9"}, headers=key)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "model")


async def test_a_documents_name_does_not_choose_the_shape_of_its_errors(world) -> None:
    key = world.tenant("acme")
    check(await world.client.get("/t/acme/v1/documents/v1/models", headers=key), 404, "not_found")


async def test_a_bad_configuration_is_pointed_at_in_its_body(world) -> None:
    world.tenant("acme")
    body = {"config": {"quotas": {"concurrent": 0}}}
    made = await world.client.post("/admin/v1/tenants", json={"name": "b", **body}, headers=world.operator)
    changed = await world.client.patch("/admin/v1/tenants/acme", json=body, headers=world.operator)
    for answer in (made, changed):
        assert check(answer, 422, "invalid_field")["errors"][0]["pointer"] == "/config/quotas/concurrent"


async def test_readiness_names_each_component(world) -> None:
    assert (await world.client.get("/readyz")).status_code == 200
    world.ready = False
    answer = await world.client.get("/readyz")
    assert answer.status_code == 503
    known = {"name": "control plane", "version": "1", "ready": False, "detail": "is away", "optional": False}
    assert json.loads(answer.text)["ready"] is False
    assert json.loads(answer.text)["components"][0] == known


async def test_a_platform_is_ready_without_what_is_optional_and_says_that_it_is_away(world) -> None:
    world.reranks = False
    answer = await world.client.get("/readyz")
    assert answer.status_code == 200
    away = [one["name"] for one in answer.json()["components"] if not one["ready"]]
    assert (answer.json()["ready"], away) == (True, ["reranker builtin-large"])
