"""Shapes of other vendors' APIs that their own clients send and read: OpenAI's chat and embeddings, Cohere's and
Jina's rerank.

Fields we do not know are ignored, as those clients expect.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.gateway.bodies import QUERY_CHARS, TOP_K, Collection, FilterField, Short, Sized
from services.gateway.replies import Answer, Reply
from services.settings import MIB
from tenants.config import SharedName

MAX_TOKENS = 32_768

Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class EmbeddingsBody(Sized):
    """`POST …/embeddings`, OpenAI's shape; fields we do not know are ignored as OpenAI's own clients expect."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    max_bytes: ClassVar[int] = 4 * MIB

    input: (
        Annotated[str, StringConstraints(min_length=1, max_length=QUERY_CHARS)]
        | Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=QUERY_CHARS)]],
            Field(min_length=1, max_length=256),
        ]
    )
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "fathom"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)


class RerankDocument(BaseModel):
    """A document as an object; other members than `text` come back with it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    text: str


class RerankBody(Sized):
    """`POST …/rerank`. Long documents are read whole, in windows, so `max_tokens_per_doc` has nothing to cut."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    max_bytes: ClassVar[int] = 8 * MIB

    query: Annotated[str, StringConstraints(min_length=1, max_length=QUERY_CHARS)]
    documents: Annotated[list[str | RerankDocument], Field(min_length=1, max_length=1_000)]
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "fathom"
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False


class Part(BaseModel):
    """A part of a message; only text is read, an image or a refusal says nothing to search for."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """One turn. `content` may be null where an assistant's turn only called tools."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """Its parts, one below the other."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content if part.type == "text" and part.text)


class StreamOptions(BaseModel):
    """Whether a last chunk tells the usage."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    include_usage: bool | None = None


class ResponseFormat(BaseModel):
    """Only plain text is written."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["text"] = "text"


class ChatBody(Sized):
    """`POST …/chat/completions`, OpenAI's shape, with the search fields of `POST …/query` beside it.

    Fields we do not know are ignored as OpenAI's own clients expect.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)
    max_bytes: ClassVar[int] = 4 * MIB

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1_000)]
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "fathom"
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    top_k: int | None = Field(default=None, ge=1, le=TOP_K)
    mode: Literal["hybrid", "dense", "sparse"] | None = None
    rerank: Literal["auto", "always", "never"] | None = None
    depth: int | None = Field(default=None, ge=0, le=1_000)
    filter: FilterField | None = None
    collections: Annotated[list[Collection | SharedName], Field(min_length=1, max_length=100)] | None = None
    session: Short | None = None

    @property
    def most_tokens(self) -> int | None:
        """The newer name before the older; more than any answer has is as good as no limit."""
        wanted = self.max_completion_tokens or self.max_tokens
        return None if wanted is None else min(wanted, MAX_TOKENS)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop sequences."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class UrlCitation(Reply):
    """Half-open characters of `content`; `url` is the document's own, else its address here."""

    start_index: int
    end_index: int
    title: str
    url: str


class Annotation(Reply):
    """OpenAI's annotation of a message."""

    type: Literal["url_citation"]
    url_citation: UrlCitation


class CitedDocument(Reply):
    """The document behind a citation; `snippet` is verbatim."""

    id: str
    title: str
    snippet: str


class CitationSource(Reply):
    """One source of a cited span; `id` is the chunk's."""

    type: Literal["document"]
    id: str
    document: CitedDocument


class SpanCitation(Reply):
    """Cohere's citation: half-open characters of `content`, and every source of them."""

    start: int
    end: int
    text: str
    sources: list[CitationSource]
    type: Literal["TEXT_CONTENT"]


class AssistantMessage(Reply):
    """`fathom` is the whole answer as `POST …/query` gives it."""

    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[Annotation]
    citations: list[SpanCitation]
    fathom: Answer


class Choice(Reply):
    """The one choice."""

    index: Literal[0]
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None


class ChatUsage(Reply):
    """Tokens that a generator read and wrote; 0 for extractive answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatReply(Reply):
    """OpenAI's `chat.completion`; with `stream`, `chat.completion.chunk`s and at last `[DONE]`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage


class Model(Reply):
    """OpenAI's model object."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(Reply):
    """OpenAI's list."""

    object: Literal["list"]
    data: list[Model]


class Embedding(Reply):
    """`embedding` is a list of floats or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Reply):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Reply):
    """OpenAI's answer to `POST …/embeddings`."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class RerankedDocument(Reply):
    """What was sent: a string becomes `{text}`."""

    text: str


class Reranked(Reply):
    """One document; `index` is its place in the request, from 0. `relevance_score` in [0, 1], higher is better."""

    index: int = Field(ge=0)
    relevance_score: float = Field(ge=0, le=1)
    document: RerankedDocument | None = None


class RerankBilling(Reply):
    """Cohere's unit: one query with up to 100 documents."""

    search_units: int


class RerankMeta(Reply):
    """`pairs` were scored for this request; `pairs_cached` of its documents had been scored before."""

    billed_units: RerankBilling
    pairs: int
    pairs_cached: int


class RerankReply(Reply):
    """`results` best first, at most `top_n`."""

    id: str
    model: str
    results: list[Reranked]
    meta: RerankMeta
