"""Chat completions: a conversation as a question, OpenAI's shapes, stop sequences; and OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.chat import StopFilter, before
from services.gateway.conversation import LONG, Turn, points_back, standalone
from tenants.errors import Unavailable

PARIS = "Paris is the capital of France. It lies on the Seine."
ROME = "Rome is the capital of Italy. It lies on the Tiber."
ASKED = {"model": "fathom", "messages": [{"role": "user", "content": "What is the capital of Italy?"}]}
CHAT = "/t/acme/v1/chat/completions"


def turns(*texts: str) -> list[Turn]:
    """User turns with an assistant's in between."""
    return [turn for text in texts for turn in (Turn("user", text), Turn("assistant", "An answer."))][:-1]


@pytest.mark.parametrize(
    ("said", "question"),
    [
        (("What is the capital of Italy?",), "What is the capital of Italy?"),
        (("Tell me of Rome.", "What is the capital of France?"), "What is the capital of France?"),
        (("Tell me of Rome.", "When was it founded?"), "Tell me of Rome.\nWhen was it founded?"),
        (("About Rome.", "When was it founded?", "And who?"), "About Rome.\nWhen was it founded?\nAnd who?"),
        (("Is Rome old?", "Tell me of Paris.", "Why is it large?"), "Tell me of Paris.\nWhy is it large?"),
        (("Tell me of Rome.", "Is it true that TLS is required?"), "Is it true that TLS is required?"),
        (("Tell me of Rome.", "Is there a limit on that query text?"), "Is there a limit on that query text?"),
        (("Tell me of Rome.", "Why?"), "Tell me of Rome.\nWhy?"),
        (("", "   "), ""),
    ],
)  # fmt: skip
def test_a_turn_that_points_back_takes_the_one_before(said: tuple[str, ...], question: str) -> None:
    assert standalone([Turn("system", "Be brief."), *turns(*said)], 1_000) == question


def test_long_turns_stand_alone_and_the_limit_keeps_the_newest() -> None:
    assert not points_back("it " * LONG)
    assert standalone(turns("a" * 50, "why?"), 20) == "why?"
    assert standalone([Turn("user", "a" * 50)], 20) == "a" * 50, "the route refuses what is too long"


@given(st.lists(st.text("ab#", max_size=5), max_size=8), st.lists(st.text("ab#", min_size=1, max_size=3), max_size=3))
def test_stop_sequences_cut_a_stream_where_they_cut_the_whole(parts: list[str], stop: list[str]) -> None:
    shown = StopFilter(stop)
    text = "".join([*(shown.feed(part) for part in parts), shown.rest()])
    assert text == before("".join(parts), stop)
    assert shown.shown == len(text)


async def test_an_answer_in_openais_shape_with_annotations_over_its_characters(world) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, paris=PARIS, rome=ROME)
    body = (await world.client.post(CHAT, json=ASKED, headers=key)).json()
    message = body["choices"][0]["message"]
    whole = message["fathom"]
    assert body["object"] == "chat.completion"
    assert body["id"] == f"chatcmpl-{whole['query_id']}"
    assert message["content"] == whole["answer"]
    assert "Rome is the capital of Italy" in message["content"]
    assert len(message["annotations"]) == len(whole["citations"]) > 0
    for note, citation in zip(message["annotations"], whole["citations"], strict=True):
        cited = note["url_citation"]
        assert citation["quote"] in message["content"][cited["start_index"] : cited["end_index"]]
        assert cited["url"] == f"http://gateway/t/acme/v1/documents/{citation['document_id']}"
        assert (await world.client.get(cited["url"], headers=key)).status_code == 200
    record = await world.client.get(f"/t/acme/v1/queries/{whole['query_id']}", headers=key)
    assert record.status_code == 200


async def test_stop_cuts_the_text_and_its_annotations(world) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, rome=ROME)
    body = (await world.client.post(CHAT, json=ASKED | {"stop": "capital"}, headers=key)).json()
    message = body["choices"][0]["message"]
    assert message["content"] == "Rome is the "
    assert message["annotations"] == []


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "gpt-4o"}, 404, None),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, 422, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, 422, "messages"),
        ({"messages": [{"role": "user", "content": "a" * 9_000}]}, 422, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, 422, "messages/0/role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 422, "messages"),
        ({"n": 2}, 422, "n"),
        ({"temperature": 3}, 422, "temperature"),
        ({"response_format": {"type": "json_object"}}, 422, "response_format/type"),
        ({"filter": {"field": "text; DROP", "op": "eq", "value": 1}}, 422, None),
        ({"collections": ["../other"]}, 422, None),
    ],
)
async def test_what_cannot_be_is_refused_in_openais_shape(world, change: dict[str, object], status: int, param) -> None:
    key = world.tenant("acme", "query")
    answer = await world.client.post(CHAT, json=ASKED | change, headers=key)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert param is None or error["param"] == param


async def test_what_openais_clients_may_send_is_taken(world) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, rome=ROME)
    said = [
        {"role": "system", "content": "a" * 200_000},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Hm."}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        ASKED["messages"][0],
    ]
    nulls = dict.fromkeys(("stream", "stream_options", "n", "stop", "top_k", "mode", "rerank", "filter", "user"))
    for change in (nulls, {"max_tokens": 128_000, "user": "u" * 300, "stream_options": {"include_usage": None}}):
        answer = await world.client.post(CHAT, json=ASKED | {"messages": said} | change, headers=key)
        assert answer.status_code == 200, answer.text
        assert "Rome is the capital" in answer.json()["choices"][0]["message"]["content"]


async def test_openais_helper_puts_a_stream_together(client, world) -> None:
    async with client.chat.completions.stream(**ASKED) as stream:
        async for _ in stream:
            pass
        whole = await stream.get_final_completion()
    assert "Rome is the capital of Italy" in whole.choices[0].message.content
    assert len(whole.choices[0].message.fathom["citations"]) == len(whole.choices[0].message.annotations) >= 1


async def test_another_tenants_key_finds_nothing(world) -> None:
    own, other = world.tenant("acme"), world.tenant("globex")
    await world.put("acme", own, rome=ROME)
    assert (await world.client.post(CHAT, json=ASKED, headers=other)).status_code == 404
    assert (await world.client.post(CHAT, json=ASKED)).status_code == 401
    mine = await world.client.post("/t/globex/v1/chat/completions", json=ASKED, headers=other)
    assert "Rome" not in mine.json()["choices"][0]["message"]["content"]


async def test_a_fault_before_the_first_chunk_has_its_status_and_one_after_is_a_chunk(world, monkeypatch) -> None:
    key = world.tenant("acme")
    await world.put("acme", key, rome=ROME)

    async def breaks(*_: object) -> AsyncIterator[object]:
        raise Unavailable("the answerer is away", retry_after_s=1)
        yield

    monkeypatch.setattr(world.platform.steps.answerer, "answer", breaks)
    answer = await world.client.post(CHAT, json=ASKED | {"stream": True}, headers=key)
    last = json.loads(answer.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["message"] == "the answerer is away"
    world.corpus.broken = True
    assert (await world.client.post(CHAT, json=ASKED | {"stream": True}, headers=key)).status_code == 503
    assert world.platform.gate.running == 0


@pytest.fixture
async def client(world) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client with the key of a tenant that has two documents."""
    key = world.tenant("acme")
    await world.put("acme", key, paris=PARIS, rome=ROME)
    transport = httpx.AsyncClient(transport=world.client._transport, base_url="http://gateway")
    token = key["Authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(
        api_key=token, base_url="http://gateway/t/acme/v1", http_client=transport, max_retries=0
    ) as found:
        yield found


async def test_openais_client_reads_a_completion(client) -> None:
    found = await client.chat.completions.create(**ASKED, extra_body={"rerank": "never", "top_k": 3})
    message = found.choices[0].message
    assert "Rome is the capital of Italy" in message.content
    assert message.annotations[0].type == "url_citation"
    assert message.annotations[0].url_citation.url == "http://gateway/t/acme/v1/documents/rome"
    (cited,) = message.citations  # Cohere's shape of the same span
    assert message.content[cited["start"] : cited["end"]] == cited["text"] == "Rome is the capital of Italy."
    assert cited["sources"][0]["document"]["snippet"] == cited["text"]
    assert message.fathom["grounded"] == "full"
    assert found.usage.total_tokens == 0


async def test_openais_client_reads_a_stream(client) -> None:
    whole = await client.chat.completions.create(**ASKED)
    stream = await client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    told = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    text = "".join(delta.content or "" for delta in told)
    assert text.strip() == whole.choices[0].message.content.strip()
    assert told[0].role == "assistant"
    notes = [note for delta in told for note in getattr(delta, "annotations", None) or []]
    cited = notes[0]["url_citation"]
    quote = told[-1].fathom["citations"][0]["quote"]
    assert quote in text[cited["start_index"] : cited["end_index"]]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 0


async def test_openais_client_may_leave_a_stream(client, world) -> None:
    stream = await client.chat.completions.create(**ASKED, stream=True)
    async for _ in stream:
        break
    await stream.close()
    assert world.platform.gate.running == 0


async def test_openais_client_raises_its_own_errors(client, world) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(**ASKED | {"model": "gpt-4o"})
    with pytest.raises(openai.UnprocessableEntityError):
        await client.chat.completions.create(**ASKED, n=2)
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").chat.completions.create(**ASKED)
    assert [model.id async for model in client.models.list()] == ["fathom", "extractive", "vllm", "builtin"]
    vectors = await client.embeddings.create(model="fathom", input=["a", "b"])
    assert len(vectors.data) == 2
