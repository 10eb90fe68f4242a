"""The HTTP application: routers, error translation, the outer frame, and /openapi.json. Made by `create_app`.

Does no work of its own. `cluster/app.py` and the tests call it with a `Platform`; nothing happens at import.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.gateway import bodies, problems, replies, vendors
from services.gateway.experimenting import ExperimentBody, PromoteBody, RampBody, StopBody
from services.gateway.middleware import Frame
from services.gateway.ports import Platform
from services.gateway.routes import admin, chat, cohere, documents, experiments, health, jobs, native, openai, shares
from services.gateway.routes import docs as pages
from services.gateway.sharing import ShareBody

_PUBLIC = ("/livez", "/readyz")
_BODIES: tuple[type[BaseModel], ...] = (
    bodies.SearchBody,
    bodies.QueryBody,
    bodies.DocumentsBody,
    bodies.JobBody,
    bodies.RollbackBody,
    bodies.EraseBody,
    bodies.FeedbackBody,
    bodies.TenantBody,
    bodies.TenantPatch,
    bodies.KeyBody,
    ShareBody,
    ExperimentBody,
    RampBody,
    StopBody,
    PromoteBody,
    vendors.ChatBody,
    vendors.EmbeddingsBody,
    vendors.RerankBody,
)
_SCALAR = {"type": ["string", "number", "boolean"]}
FILTER: dict[str, Any] = {
    "description": "A tree of comparisons; at most 8 deep and 128 comparisons.",
    "anyOf": [
        {
            "type": "object",
            "properties": {word: {"type": "array", "items": bodies.FILTER_SCHEMA, "minItems": 1}},
            "required": [word],
            "additionalProperties": False,
        }
        for word in ("and", "or")
    ]
    + [
        {
            "type": "object",
            "properties": {"not": bodies.FILTER_SCHEMA},
            "required": ["not"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {
                "field": {"type": "string", "description": "document_id, collection, updated_at, url or metadata.*"},
                "op": {"enum": ["eq", "ne", "lt", "lte", "gt", "gte", "in", "exists"]},
                "value": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1, "maxItems": 256}]},
            },
            "required": ["field", "op"],
            "additionalProperties": False,
        },
    ],
}


def create_app(platform: Platform, *, names_answers: bool = True) -> FastAPI:
    """The whole application over one platform; `names_answers` puts `X-Request-Id` on each answer."""
    app = FastAPI(
        title="Fathom",
        version=platform.version,
        description="Cited answers from each tenant's own documents. The tenant's key goes into `Authorization`.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.platform = platform
    for family in (health, native, documents, jobs, openai, chat, cohere, admin, shares, experiments):
        app.include_router(family.router)
    app.include_router(pages.router)
    problems.install(app)
    app.add_middleware(
        Frame,
        body_bytes=platform.settings.limits.body_bytes,
        timeout_s=platform.settings.request_timeout_s,
        metrics=platform.metrics,
        names_answers=names_answers,
    )
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    return app


def describe(app: FastAPI) -> dict[str, Any]:
    """/openapi.json: FastAPI's own, plus the bodies that routes read themselves and the bearer key; made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(_schemas())
        schemas["Filter"] = FILTER
        _secure(document)
        app.openapi_schema = document
    return app.openapi_schema


def _schemas() -> dict[str, Any]:
    errors: tuple[type[BaseModel], ...] = (replies.Problem, replies.OpenAIError)
    wanted = [(model, "validation") for model in (*_BODIES, *errors)]
    _, made = models_json_schema(wanted, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    found: dict[str, Any] = made["$defs"]
    return found


def _secure(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None) if path in _PUBLIC else None
            if path not in _PUBLIC:
                operation["security"] = [{"key": []}]
