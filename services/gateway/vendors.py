"""Shapes of other vendors' APIs that their own clients send and read: OpenAI's embeddings, Cohere's and Jina's rerank.

Fields we do not know are ignored, as those clients expect.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.gateway.bodies import QUERY_CHARS, Sized
from services.gateway.replies import Reply
from services.settings import MIB


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
