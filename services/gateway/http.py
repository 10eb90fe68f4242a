"""JSON answers and their description in /openapi.json. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from fastapi.responses import Response
from pydantic import BaseModel

from services.gateway.problems import PROBLEM_JSON
from services.gateway.replies import OpenAIError, Problem

JSON = "application/json"
TENANT_ERRORS = (400, 401, 403, 404, 413, 422, 429, 500, 503)
ADMIN_ERRORS = (400, 401, 403, 404, 409, 413, 422, 500, 503)
_TEXT = {
    400: "Malformed: the body cannot be read",
    401: "No key, or one that is unknown, revoked or expired",
    403: "The key's scope is too small, or the tenant is suspended",
    404: "Nothing here that this caller may know of",
    405: "The path does not take this method",
    409: "The state does not allow this, or the same work is running",
    413: "A limit on sizes is exceeded",
    422: "A field's value is not acceptable; `errors` names each",
    429: "Your quota is used up; see `Retry-After`",
    500: "A fault of ours",
    503: "The platform is full or not ready; see `Retry-After`",
}


def reply(body: Mapping[str, Any], status: int = 200) -> Response:
    """A JSON answer. NaN and infinity become null."""
    return Response(msgspec.json.encode(body), status, media_type=JSON)


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC, null for none."""
    return None if moment is None else moment.isoformat()


def answers(
    model: type[BaseModel], status: int = 200, *, errors: tuple[int, ...] = TENANT_ERRORS, openai: bool = False
) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: the model at `status`, and a problem (or OpenAI's error) at each error status."""
    documented: dict[int | str, dict[str, Any]] = {status: {"model": model, "description": "Success"}}
    return documented | failures(errors, openai=openai)


def failures(errors: tuple[int, ...], *, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """Only the error statuses."""
    name = OpenAIError.__name__ if openai else Problem.__name__
    media = JSON if openai else PROBLEM_JSON
    content = {media: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {code: {"description": _TEXT[code], "content": content} for code in errors}


def repeatable() -> dict[str, Any]:
    """`openapi_extra=` of a route that knows `Idempotency-Key`."""
    text = "The first answer is kept for 24 hours and given to repeats with the same key and body"
    schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
    return {"parameters": [{"name": "Idempotency-Key", "in": "header", "description": text, "schema": schema}]}


def accepts(model: type[BaseModel], *, multipart: bool = False) -> dict[str, Any]:
    """`openapi_extra=` of a route that reads its own body."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    if multipart:
        binary = {"type": "string", "format": "binary"}
        files = {"type": "array", "items": binary, "minItems": 1}
        form = {"type": "object", "properties": {"files": files}, "required": ["files"]}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}
