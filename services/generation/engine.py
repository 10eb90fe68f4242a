"""A model that writes: what is asked of it, what comes back, and any OpenAI-compatible server as one.

vLLM in this cluster answers behind a Serve handle (services/handles.py, `RemoteEngine`), any other server behind its
URL (`ServerEngine`); both speak OpenAI's chat completions, streamed, and are read by `piece_of`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2
import openai

from services.breaker import Breaker
from tenants.errors import DeadlineExceeded, FathomError, Overloaded, Unavailable

BYTES_PER_TOKEN = 2.5  # of UTF-8, for a server that counts no tokens for us: on the high side in any script
PATIENCE_S = 5.0  # a time-out after less says nothing about the server
CONTEXT_TOKENS = 4_096  # of a server that does not say
CONNECT_S = 5.0
FACTS_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Writing:
    """One answer to be written. `pattern` is the regular expression of grammar.py.

    `salt` keeps prefix caches of different tenants apart, so that no timing tells what another one has asked;
    `adapter` names a LoRA adapter of the served model.
    """

    system: str
    user: str
    pattern: str
    max_tokens: int
    temperature: float = 0.0
    salt: str = ""
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the stream; the counts come with the last one."""

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False  # ended by the limit of tokens


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """`model` as answers name it; `context_tokens` prompt and answer together; `at_work` answers, where it is told."""

    model: str
    context_tokens: int
    at_work: int | None = None


class Refused(Unavailable):
    """The engine takes no part in this one request (too long, unknown adapter); others may fare better."""


class Engine(Protocol):
    """One generator. Everything raises `Unavailable`, of it `Refused`, `Overloaded` or `DeadlineExceeded`."""

    async def facts(self) -> EngineFacts:
        """What is served; raises when nothing is."""
        ...

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, by the model's own tokenizer where the server counts."""
        ...

    def write(self, writing: Writing, timeout_s: float = math.inf) -> AsyncGenerator[Piece]:
        """The answer as it is written. Closing the iterator, or cancelling its reader, ends the request there."""
        ...


def adapter_name(tenant: str) -> str:
    """What a tenant's LoRA adapter is called in the engine."""
    return f"adapter-{tenant}"


def chat_body(model: str, writing: Writing, *, structured: bool) -> dict[str, Any]:
    """OpenAI's request; `structured` adds what vLLM understands beyond it: the grammar and the salt."""
    body: dict[str, Any] = {
        "model": writing.adapter or model,
        "messages": [
            {"role": "system", "content": writing.system},
            {"role": "user", "content": writing.user},
        ],
        "max_tokens": writing.max_tokens,
        "temperature": writing.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if structured:
        body["structured_outputs"] = {"regex": writing.pattern}
        if writing.salt:
            body["cache_salt"] = writing.salt
    return body


def piece_of(chunk: Mapping[str, Any]) -> Piece:
    """A `chat.completion.chunk`. Raises `Unavailable` for an error in a chunk's place."""
    if chunk.get("error"):
        raise Unavailable("the generator failed while it wrote", retry_after_s=1)
    usage = chunk.get("usage") or {}
    choices = chunk.get("choices") or []
    delta = (choices[0].get("delta") or {}) if choices else {}
    return Piece(
        text=delta.get("content") or "",
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        cut=bool(choices) and choices[0].get("finish_reason") == "length",
    )


class ServerEngine:
    """Any OpenAI-compatible server by its address: a vLLM elsewhere, a hosted model.

    `structured` says that it is a vLLM and takes the grammar; without it the lines are only checked. A call that
    cannot connect is tried once more by the client; repeated failures open the breaker.
    """

    def __init__(self, base_url: str, model: str, key: str = "", *, structured: bool = False) -> None:
        self._model = model
        self._structured = structured
        self._breaker = Breaker()
        self._root = base_url.rstrip("/").removesuffix("/v1")
        self._counts = True  # until the server says that it has no /tokenize
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key or "none", max_retries=1, timeout=openai.Timeout(60.0, connect=CONNECT_S)
        )

    async def facts(self) -> EngineFacts:
        """See `Engine`; a server that does not say how much it reads is taken to read CONTEXT_TOKENS."""
        with _Failures(self._breaker):
            async with asyncio.timeout(FACTS_TIMEOUT_S):
                listed = await self._client.models.list()
        served = {one.id: one for one in listed.data}
        extra = (served[self._model].model_extra or {}) if self._model in served else {}
        return EngineFacts(self._model, int(extra.get("max_model_len") or CONTEXT_TOKENS))

    async def count(self, texts: Sequence[str]) -> list[int]:
        """VLLM's `/tokenize`; another server's tokens are estimated from the bytes, on the high side."""
        if self._counts:
            counted = await asyncio.gather(*(self._tokenized(text) for text in texts))
            if None not in counted:
                return [size for size in counted if size is not None]
        return [math.ceil(len(text.encode()) / BYTES_PER_TOKEN) for text in texts]

    async def write(self, writing: Writing, timeout_s: float = math.inf) -> AsyncGenerator[Piece]:
        """See `Engine`."""
        body = chat_body(self._model, writing, structured=self._structured)
        extra = {name: body.pop(name) for name in ("structured_outputs", "cache_salt") if name in body}
        limit = None if math.isinf(timeout_s) else timeout_s
        with _Failures(self._breaker, timeout_s):
            async with asyncio.timeout(limit):
                stream = await self._client.chat.completions.create(**body, extra_body=extra, timeout=limit)
                async with aclosing(stream.response), aclosing(aiter(stream)) as chunks:
                    async for chunk in chunks:
                        yield piece_of(chunk.model_dump())

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.close()

    async def _tokenized(self, text: str) -> int | None:
        try:
            found: Any = await self._client.post(
                f"{self._root}/tokenize",
                cast_to=object,
                body={"model": self._model, "prompt": text},
                options={"timeout": FACTS_TIMEOUT_S, "max_retries": 0},
            )
            return int(found["count"])
        except openai.APIStatusError as error:
            self._counts = error.status_code not in (404, 405, 501)
        except (openai.APIError, httpx2.HTTPError, KeyError, TypeError, ValueError):
            pass  # this time an estimate will do
        return None


class _Failures:
    """Translates what the client raises, and counts it."""

    def __init__(self, breaker: Breaker, patience_s: float = math.inf) -> None:
        self._breaker = breaker
        self._patience_s = patience_s

    def __enter__(self) -> None:
        if not self._breaker.allows():
            rest_s = max(1.0, self._breaker.rest_s)
            raise Unavailable("the generator rests after repeated failures", retry_after_s=rest_s)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._breaker.succeeded()
            return
        told = _told(error)
        if told is None:
            return
        hurried = isinstance(told, DeadlineExceeded) and self._patience_s < PATIENCE_S
        if isinstance(told, (Overloaded, Refused)):
            self._breaker.succeeded()
        elif not hurried:
            self._breaker.failed()
        raise told from error


def _told(error: BaseException) -> FathomError | None:
    """The house's error for one of the client's; None for what is not the server's fault."""
    if isinstance(error, openai.RateLimitError):
        return Overloaded("the generator is full; try again", retry_after_s=1)
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return DeadlineExceeded("the generator did not answer in time; try again", retry_after_s=1)
    if isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError)):
        return Refused(f"the generator refused the request ({error.status_code}); its log says why")
    if isinstance(error, openai.APIStatusError):
        return Unavailable(f"the generator answered {error.status_code}; its log says why", retry_after_s=1)
    if isinstance(error, (openai.APIError, httpx2.HTTPError, Unavailable)):
        return Unavailable("the generator is not there; try again", retry_after_s=1)
    if isinstance(error, (ValueError, TypeError, AttributeError, KeyError)):
        return Unavailable("the generator sent what is no answer; its log may say why", retry_after_s=1)
    return None
