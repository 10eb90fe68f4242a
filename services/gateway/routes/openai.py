"""OpenAI's shapes over the tenant's own embedder: list models, embed texts."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from services import deadline
from services.contracts import Float32
from services.gateway import bodies, vendors
from services.gateway.admission import admitted, counted
from services.gateway.auth import Access, may, platform_of
from services.gateway.http import TENANT_ERRORS, accepts, answers, reply
from tenants.errors import InvalidInput, TooLarge

router = APIRouter(prefix="/t/{tenant}/v1", tags=["openai"])

Asker = Annotated[Access, Depends(may("query"))]
FATHOM = "fathom"
CHAT_MODELS = (FATHOM, "extractive")  # what answers; embedders are named by their references
MAX_CHARS = 131_072  # of all texts of a request: about 8 s of one core with the built-in embedder
PART_CHARS = 8_192
CHARS_OF_A_QUESTION = 512  # texts of so many characters cost the platform about what one question does


@router.get("/models", responses=answers(vendors.Models, errors=TENANT_ERRORS, openai=True))
async def list_models(request: Request, access: Asker) -> Response:
    """What `model` may name on the OpenAI routes of this tenant."""
    counted(platform_of(request), access, request)
    since = int(access.tenant.created_at.timestamp())
    names = dict.fromkeys((*CHAT_MODELS, *platform_of(request).generators, access.scope.config.embedder))
    data = [{"id": name, "object": "model", "created": since, "owned_by": FATHOM} for name in names]
    return reply({"object": "list", "data": data})


@router.post(
    "/embeddings",
    responses=answers(vendors.Embeddings, errors=TENANT_ERRORS, openai=True),
    openapi_extra=accepts(vendors.EmbeddingsBody),
)
async def embed(request: Request, access: Asker) -> Response:
    """Unit vectors by the tenant's embedder; `fathom` names it too."""
    platform = platform_of(request)
    counted(platform, access, request)
    body = await bodies.read_body(request, vendors.EmbeddingsBody)
    texts = [body.input] if isinstance(body.input, str) else body.input
    own = access.scope.config.embedder
    if body.model not in (FATHOM, own):
        raise InvalidInput.field("/model", f"this tenant's model is {own} (or {FATHOM})")
    size = sum(map(len, texts))
    if size > MAX_CHARS:
        raise TooLarge(f"the texts have {size} characters, {MAX_CHARS} are allowed in one request; send fewer at once")
    async with admitted(platform, access, cost=1 + size / CHARS_OF_A_QUESTION), deadline.enforced():
        # Part by part: a question that comes in between waits for one part, not for all of them.
        parts = [await platform.steps.retriever.embed(own, part) for part in batches(texts)]
        tokens = await platform.count_tokens(own, texts)
    vectors = np.concatenate(parts)
    if body.dimensions not in (None, vectors.shape[1]):
        raise InvalidInput.field("/dimensions", f"this embedder gives {vectors.shape[1]} dimensions")
    data = [
        {"object": "embedding", "index": number, "embedding": _encoded(row, body.encoding_format)}
        for number, row in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return reply({"object": "list", "data": data, "model": own, "usage": usage})


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in order, in parts of at most `PART_CHARS` characters (or one text)."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and size + len(text) > PART_CHARS:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part


def _encoded(row: Float32, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return [float(value) for value in np.asarray(row, dtype=np.float64)]
