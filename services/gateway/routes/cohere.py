"""Cohere's and Jina's rerank over the tenant's own cross-encoders, at the paths that their clients ask."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from services import deadline
from services.contracts import CrossEncoderFacts, Passage, Scored, Span
from services.gateway import bodies, vendors
from services.gateway.admission import admitted, counted
from services.gateway.auth import Access, may, platform_of
from services.gateway.http import accepts, answers, reply
from services.gateway.ports import Platform
from services.settings import Limits
from tenants.config import Rerankers
from tenants.errors import DeadlineExceeded, FathomError, InvalidInput, TooLarge
from tenants.scope import TenantScope

router = APIRouter(prefix="/t/{tenant}", tags=["cohere"])

Asker = Annotated[Access, Depends(may("query"))]
SMALL, LARGE = ("fathom-small", "small"), ("fathom", "fathom-large", "large")
MAX_CHARS = 1_048_576  # of all documents of a request: about 8 s of the large model on two cores
DOCUMENTS_OF_A_QUESTION = 16  # so many pairs cost the platform about what one question does
DOCUMENTS_OF_A_UNIT = 100


@router.post("/v1/rerank", responses=answers(vendors.RerankReply), openapi_extra=accepts(vendors.RerankBody))
@router.post("/v2/rerank", responses=answers(vendors.RerankReply), openapi_extra=accepts(vendors.RerankBody))
async def rerank(request: Request, access: Asker) -> Response:
    """Score documents that the caller brings against a query, best first; their text is kept nowhere."""
    platform = platform_of(request)
    counted(platform, access, request)
    body = await bodies.read_body(request, vendors.RerankBody)
    scope = platform.variants.champion(platform.switching.settled(access.scope))
    reference = model_of(body.model, scope.config.rerankers)
    passages = to_passages(body, platform.settings.limits)
    cost = 1 + len(passages) / DOCUMENTS_OF_A_QUESTION
    async with admitted(platform, access, cost=cost), deadline.enforced():
        facts, scored = await _scored(platform, scope, reference, body.query, passages)
    return reply(reranked(body, facts, scored))


async def _scored(
    platform: Platform, scope: TenantScope, reference: str, query: str, passages: Sequence[Passage]
) -> tuple[CrossEncoderFacts, Scored]:
    """Within the tenant's quota of pairs; what was refused or remembered does not count against it."""
    facts = await platform.scorer.facts(scope, reference)
    platform.pairs.reserve(scope, len(passages))
    try:
        scored = await platform.scorer.score(scope, reference, query, passages)
    except DeadlineExceeded:
        raise  # pairs were computed until then
    except FathomError:
        platform.pairs.spend(scope, -len(passages))
        raise
    platform.pairs.spend(scope, -int(scored.cached.sum()))
    return facts, scored


def model_of(name: str, rerankers: Rerankers) -> str:
    """The tenant's reference that `model` picks; raises `InvalidInput` naming what may be picked."""
    if name in (*LARGE, rerankers.large):
        return rerankers.large
    if name in (*SMALL, rerankers.small):
        return rerankers.small
    mend = f"choose {LARGE[0]} or {SMALL[0]}"
    raise InvalidInput.field("/model", f"this tenant's models are {rerankers.large} and {rerankers.small}; {mend}")


def to_passages(body: vendors.RerankBody, limits: Limits) -> list[Passage]:
    """The documents as chunks of nobody; raises `InvalidInput`, or `TooLarge` over the platform's limits."""
    if not body.query.strip():
        raise InvalidInput.field("/query", "the query is blank; send a question")
    if len(body.query) > limits.query_chars:
        raise InvalidInput.field("/query", f"the query has {len(body.query)} characters, {limits.query_chars} may be")
    if len(body.documents) > limits.rerank_documents:
        raise InvalidInput.field("/documents", f"at most {limits.rerank_documents} documents at once here")
    texts = [text_of(document) for document in body.documents]
    size = sum(map(len, texts))
    if size > MAX_CHARS:
        raise TooLarge(f"the documents have {size} characters, {MAX_CHARS} may be in one request; send fewer at once")
    return [_passage(number, text) for number, text in enumerate(texts)]


def text_of(document: str | vendors.RerankDocument) -> str:
    """A document's text."""
    return document if isinstance(document, str) else document.text


def reranked(body: vendors.RerankBody, facts: CrossEncoderFacts, scored: Scored) -> dict[str, Any]:
    """The answer; equal logits keep the order in which the documents came.

    `relevance_score` = 1 / (1 + e^−logit): monotone in the logit, not calibrated.
    """
    order = np.argsort(-scored.logits, kind="stable")[: body.top_n]
    scores = 1 / (1 + np.exp(-scored.logits.astype(np.float64)))
    cached = int(scored.cached.sum())
    units = math.ceil(len(body.documents) / DOCUMENTS_OF_A_UNIT)
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": units}}
    return {
        "id": f"rr_{secrets.token_hex(16)}",
        "model": facts.name,
        "results": [_result(body, int(row), float(scores[row])) for row in order],
        "meta": meta | {"pairs": len(body.documents) - cached, "pairs_cached": cached},
    }


def _result(body: vendors.RerankBody, row: int, score: float) -> dict[str, Any]:
    found: dict[str, Any] = {"index": row, "relevance_score": score}
    if body.return_documents:
        document = body.documents[row]
        found["document"] = {"text": document} if isinstance(document, str) else document.model_dump()
    return found


def _passage(number: int, text: str) -> Passage:
    return Passage(
        chunk_id=f"document-{number}",
        document_id=f"document-{number}",
        title="",
        heading="",
        text=text,
        collection="",
        ordinal=0,
        span=Span(0, len(text)),
        url=None,
        updated_at=None,
        metadata={},
        tokens=0,
    )
