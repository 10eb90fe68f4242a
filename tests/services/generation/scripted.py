"""An engine that writes a script. Suffices where what stands around the engine is tested: checks, fallbacks, order.

The real vLLM has its own tests (tests/services/generation/test_vllm.py).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from services.generation.engine import EngineFacts, Piece, Writing
from services.generation.generators import Generators


@dataclass
class ScriptedEngine:
    """Writes `script` three characters at a time; with an `error`, up to `breaks_after` and then raises it."""

    script: str = ""
    error: Exception | None = None
    breaks_after: int = 0
    away: Exception | None = None
    context_tokens: int = 4_096
    hangs: bool = False
    asked: list[Writing] = field(default_factory=list)
    open: int = 0

    async def facts(self) -> EngineFacts:
        if self.away is not None:
            raise self.away
        return EngineFacts("scripted", self.context_tokens)

    async def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def write(self, writing: Writing, timeout_s: float = math.inf) -> AsyncGenerator[Piece]:
        self.asked.append(writing)
        self.open += 1
        try:
            whole = self.script[: self.breaks_after] if self.error else self.script
            for at in range(0, len(whole), 3):
                await asyncio.sleep(0)
                yield Piece(whole[at : at + 3])
            if self.error is not None:
                raise self.error
            if self.hangs:
                await asyncio.Event().wait()
            yield Piece(prompt_tokens=40, completion_tokens=12)
        finally:
            self.open -= 1


def generators(engine: ScriptedEngine | None = None) -> Generators:
    """The platform's one generator, `vllm`."""

    def connect(server: object) -> ScriptedEngine:
        raise AssertionError(server)

    return Generators({"vllm": engine} if engine else {}, connect)
