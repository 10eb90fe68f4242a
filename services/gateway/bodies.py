"""What callers may send: pydantic bodies, unknown fields refused, and their translation into contracts.

Sizes here are the contract's defaults; `services.settings.Limits` may only narrow them. Reads no store.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, WithJsonSchema
from pydantic_core import from_json

from services import deadline
from services.contracts import Question
from services.gateway.problems import from_pydantic
from services.retrieval.filters import parse_filter
from services.settings import MIB, Limits
from tenants.config import SharedName
from tenants.errors import InvalidInput, Malformed, TooLarge
from tenants.ids import MAX_DOCUMENT_ID_CHARS, document_id

QUERY_CHARS = 8_192
TOP_K = 100
INLINE_BYTES = 64 * 1024  # a longer body is parsed in a thread: the event loop belongs to everybody
FILTER_SCHEMA: dict[str, Any] = {"$ref": "#/components/schemas/Filter"}

BodyT = TypeVar("BodyT", bound="Sized")
Collection = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_DOCUMENT_ID_CHARS)]
Short = Annotated[str, StringConstraints(max_length=256)]
FilterField = Annotated[dict[str, JsonValue], WithJsonSchema(FILTER_SCHEMA)]


class Sized(BaseModel):
    """A body with its own limit, at most the platform's: parsed JSON takes up to fifty times its bytes."""

    max_bytes: ClassVar[int] = 256 * 1024


class Body(Sized):
    """Strict: a number in quotes is not a number, an unknown field is a mistake worth telling."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SearchBody(Body):
    """`POST …/search`."""

    query: Annotated[str, StringConstraints(min_length=1, max_length=QUERY_CHARS)]
    top_k: int = Field(default=10, ge=1, le=TOP_K)
    mode: Literal["hybrid", "dense", "sparse"] = "hybrid"
    rerank: Literal["auto", "always", "never"] = "auto"
    depth: int | None = Field(default=None, ge=0, le=1_000)
    filter: FilterField | None = None
    collections: Annotated[list[Collection | SharedName], Field(min_length=1, max_length=100)] | None = None
    group_by: Literal["document"] | None = None
    session: Short | None = None
    user: Short | None = None
    explain: bool = False


class QueryBody(SearchBody):
    """`POST …/query`."""

    stream: bool = False
    generator: Literal["extractive", "vllm", "auto"] | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=32_768)


class DocumentBody(Body):
    """One document of a small batch; `updated_at` is ISO 8601, UTC where it names no zone."""

    id: Id
    title: Annotated[str, StringConstraints(max_length=2_000)] | None = None
    text: str
    metadata: dict[str, JsonValue] | None = None
    updated_at: Annotated[str, StringConstraints(max_length=64), WithJsonSchema({"type": "string"})] | None = None
    url: Annotated[str, StringConstraints(max_length=8_192)] | None = None


class DocumentsBody(Body):
    """`POST …/documents`."""

    max_bytes: ClassVar[int] = 32 * MIB

    documents: Annotated[list[DocumentBody], Field(min_length=1, max_length=1_000)]
    collection: Collection = "default"


class JobBody(Body):
    """`POST …/jobs`; `yes` confirms a deletion that the plan calls large."""

    sources: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=2_048)]], Field(min_length=1, max_length=100)
    ]
    sync: bool = False
    collection: Collection = "default"
    dry_run: bool = False
    yes: bool = False


class RollbackBody(Body):
    """`POST …/rollback`; without `to`, the version before the current one."""

    to: int | None = Field(default=None, ge=1, le=2**31)


class EraseBody(Body):
    """`POST …/erase`."""

    max_bytes: ClassVar[int] = 4 * MIB  # 1,000 ids of 1,024 characters

    documents: Annotated[list[Id], Field(min_length=1, max_length=1_000)]


class FeedbackBody(Body):
    """`POST …/feedback`; at least one signal beside the query's id."""

    query_id: Annotated[str, StringConstraints(pattern=r"^q_[0-9a-f]{32}$")]
    rating: Literal[1, -1] | None = None
    clicked: Annotated[list[Short], Field(max_length=100)] | None = None
    relevant: Annotated[list[Short], Field(max_length=100)] | None = None
    irrelevant: Annotated[list[Short], Field(max_length=100)] | None = None
    comment: Annotated[str, StringConstraints(max_length=4_096)] | None = None


class TenantBody(Body):
    """`POST /admin/v1/tenants`."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    config: dict[str, JsonValue] = Field(default_factory=dict)


class TenantPatch(Body):
    """`PATCH /admin/v1/tenants/{tenant}`; `config` is merged key by key, null restores a default."""

    config: dict[str, JsonValue] | None = None
    state: Literal["active", "suspended"] | None = None


class KeyBody(Body):
    """`POST …/keys`; `expires` is `90d`, `12h` or an ISO 8601 time."""

    scope: Literal["query", "index", "admin"] = "query"
    expires: Annotated[str, StringConstraints(max_length=64)] | None = None


async def read_body(request: Request, model: type[BodyT]) -> BodyT:
    """The JSON body as `model`; read after the caller is known, so that a stranger cannot make us buffer anything.

    Raises `Malformed` for what is no JSON, `InvalidInput` naming every bad field, `TooLarge` over the limit.
    """
    async with deadline.enforced():
        raw = await _read(request, model.max_bytes)
    if len(raw) <= INLINE_BYTES:
        return parse_body(raw, model)
    return await asyncio.to_thread(parse_body, raw, model)


async def _read(request: Request, limit_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit_bytes:
        raise too_large(limit_bytes)
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > limit_bytes:
            raise too_large(limit_bytes)
    return bytes(raw)


def parse_body(raw: bytes, model: type[BodyT]) -> BodyT:
    """Pydantic's own JSON reader: no NaN, no lone surrogates, bounded nesting. An empty body is an empty object."""
    try:
        value = from_json(raw or b"{}", allow_inf_nan=False)
    except ValueError as error:
        raise Malformed(f"the body is not JSON: {error}; send one JSON object") from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise from_pydantic(error) from None


def too_large(limit_bytes: int) -> TooLarge:
    """What a body over the limit of its route is answered with."""
    return TooLarge(f"the body is larger than {limit_bytes} bytes; send less at once, or index it with a job")


def to_question(body: SearchBody, limits: Limits) -> Question:
    """The validated question; raises `InvalidInput` naming the field."""
    text = body.query.strip()
    if not text:
        raise InvalidInput.field("/query", "the query is blank; send a question")
    if len(text) > limits.query_chars:
        raise InvalidInput.field("/query", f"the query has {len(text)} characters, {limits.query_chars} are allowed")
    if body.top_k > limits.top_k:
        raise InvalidInput.field("/top_k", f"top_k is at most {limits.top_k} here")
    return Question(
        text=text,
        top_k=body.top_k,
        mode=body.mode,
        rerank=body.rerank,
        depth=body.depth,
        filter=None if body.filter is None else parse_filter(body.filter),
        collections=None if body.collections is None else tuple(body.collections),
        group_by=body.group_by,
        session=body.session,
        user=body.user,
        explain=body.explain,
        generator=body.generator if isinstance(body, QueryBody) else None,
        max_tokens=body.max_tokens if isinstance(body, QueryBody) else None,
    )


def to_rows(body: DocumentsBody, limits: Limits) -> list[dict[str, Any]]:
    """The documents as the indexing line takes them, ids normalised, times in UTC; names each bad field."""
    if len(body.documents) > limits.batch_documents:
        raise TooLarge(f"a batch holds at most {limits.batch_documents} documents; use a job for more")
    return [_row(number, document) for number, document in enumerate(body.documents)]


def _row(number: int, document: DocumentBody) -> dict[str, Any]:
    row = document.model_dump(exclude_none=True)
    row["id"] = checked_id(document.id, f"/documents/{number}/id")
    if document.updated_at is not None:
        row["updated_at"] = _utc(document.updated_at, f"/documents/{number}/updated_at")
    return row


def checked_id(raw: str, pointer: str) -> str:
    """A document id, or `InvalidInput` at `pointer`."""
    try:
        return document_id(raw)
    except InvalidInput as error:
        raise InvalidInput.field(pointer, error.errors[0].detail) from None


def _utc(raw: str, pointer: str) -> str:
    try:
        when = datetime.fromisoformat(raw)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        raise InvalidInput.field(pointer, "not an ISO 8601 time such as 2026-01-31T12:00:00Z") from None
