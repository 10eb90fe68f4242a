"""How many tokens texts have for an embedder: what usage figures report. Asks only its tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache

from services.embedding.encoder import describe_encoder
from services.embedding.tokens import WindowTokenizer


async def count_tokens(model: str, texts: Sequence[str]) -> int:
    """Tokens that the embedder `model` reads for `texts`, special tokens included; in a thread."""
    return await asyncio.to_thread(_count, model, texts)


def _count(model: str, texts: Sequence[str]) -> int:
    return int(_tokenizer(model).windows(texts).lengths().sum())


@lru_cache(maxsize=8)
def _tokenizer(model: str) -> WindowTokenizer:
    info = describe_encoder(model)
    return WindowTokenizer(info.tokenizer_json, info.max_tokens)
