"""Errors as the contract shows them: RFC 9457 problems, and OpenAI's shape on the OpenAI routes.

The only place where an exception becomes a status. Every class of `tenants.errors` has its own; FastAPI's
and Starlette's own errors (unknown path, wrong method, bad parameter) are translated here too.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from services.gateway.context import RequestContext
from tenants.errors import (
    FathomError,
    FieldError,
    Forbidden,
    InvalidInput,
    Malformed,
    NotFound,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

PROBLEM_JSON = "application/problem+json"
OPENAI_ROUTES = re.compile(r"/t/[^/]+/v1/(?:models|embeddings|chat/completions)")
_OPENAI_TYPES: Mapping[type[FathomError], str] = {
    Unauthenticated: "authentication_error",
    Forbidden: "permission_error",
    NotFound: "not_found_error",
    QuotaExceeded: "rate_limit_error",
    InvalidInput: "invalid_request_error",
}
_log = logging.getLogger("fathom.gateway")


class InternalError(FathomError):
    """A fault of ours that nobody foresaw; the log holds the rest under the request id."""


class MethodNotAllowed(FathomError):
    """The path exists, the method does not."""

    code, status = "method_not_allowed", 405


class NotAcceptable(FathomError):
    """Any other refusal that Starlette makes before a route runs."""

    code, status = "refused", 400


def problem(error: FathomError, request_id: str) -> dict[str, Any]:
    """The body of RFC 9457 with the contract's extra members."""
    body: dict[str, Any] = {
        "type": f"urn:fathom:problem:{error.code}",
        "title": _title(error.status),
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        "retryable": error.retryable,
    }
    if error.errors:
        body["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in error.errors]
    return body


def openai_problem(error: FathomError, request_id: str) -> dict[str, Any]:
    """OpenAI's error object; `param` names the first bad field."""
    kind = next((name for cls, name in _OPENAI_TYPES.items() if isinstance(error, cls)), "api_error")
    param = error.errors[0].pointer.lstrip("/") if error.errors else None
    body = {"message": error.detail, "type": kind, "param": param, "code": error.code}
    return {"error": {**body, "request_id": request_id, "retryable": error.retryable}}


def headers_of(error: FathomError) -> dict[str, str]:
    """`Retry-After` (whole seconds, at least 1) where a retry helps, `WWW-Authenticate` on 401."""
    if error.status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": 'Bearer realm="fathom"'}
    if isinstance(error, (QuotaExceeded, Unavailable)):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s or 1)))}
    return {"Retry-After": "1"} if error.retryable else {}


def respond(error: FathomError, scope_path: str, context: RequestContext) -> Response:
    """The HTTP answer for an error, in the shape that the route's clients read."""
    openai = OPENAI_ROUTES.fullmatch(scope_path)
    body = openai_problem(error, context.request_id) if openai else problem(error, context.request_id)
    media = "application/json" if openai else PROBLEM_JSON
    return Response(msgspec.json.encode(body), error.status, headers_of(error), media)


def translate(error: Exception) -> FathomError:
    """Any exception as one of ours; what nobody foresaw is logged and becomes a 500."""
    if isinstance(error, FathomError):
        return error
    if isinstance(error, RequestValidationError):
        return invalid([{**fault, "loc": fault["loc"][1:]} for fault in error.errors()])
    if isinstance(error, HTTPException):
        return _from_starlette(error)
    _log.error("unforeseen error", exc_info=error)
    return InternalError("the platform failed on this request; its log holds the cause under this request id")


def invalid(faults: Sequence[Any]) -> InvalidInput:
    """Pydantic's list of faults as one error that names each field by its JSON pointer."""
    errors = tuple(FieldError(_pointer(fault["loc"]), str(fault["msg"])) for fault in faults)
    detail = "; ".join(f"{error.pointer.lstrip('/') or 'body'}: {error.detail}" for error in errors[:5])
    return InvalidInput(detail, errors=errors[:50])


def from_pydantic(error: ValidationError) -> InvalidInput:
    """A body that pydantic refused, without echoing what was sent."""
    return invalid(error.errors(include_url=False, include_input=False))


def install(app: FastAPI) -> None:
    """Register the translation for everything a route or FastAPI itself may raise."""

    async def handle(request: Request, error: Exception) -> Response:
        return respond(translate(error), request.url.path, RequestContext.of(request.scope))

    for kind in (FathomError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)


def _from_starlette(error: HTTPException) -> FathomError:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound("nothing is here; /docs lists every path")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowed("this path does not take this method; /docs lists what it takes")
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLarge(str(error.detail))
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return Malformed(str(error.detail))
    return NotAcceptable(str(error.detail))


def _pointer(location: Sequence[str | int]) -> str:
    return "/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _title(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Cancelled"
