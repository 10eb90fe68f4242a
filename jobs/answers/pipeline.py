"""Questions → answers as one Ray Data chain, or in this process when they are few.

Each actor holds the models and an event loop; IN_FLIGHT questions of a batch are at work at once, so that a
generator's engine batches them. Every answer is audited, as any other of the tenant's.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
import ray

from jobs.answers.job import Ask, Row
from jobs.indexing.pipeline import connect
from services import deadline
from services.audit.log import open_audit_log
from services.contracts import Caller, Question, RerankChoice
from services.evidence.extract import ExtractiveAnswerer
from services.generation.answerer import GroundedAnswerer
from services.handles import open_generators
from services.query import Steps, answer
from services.reranking.adaptive import AdaptiveReranker
from services.reranking.local import Uncounted, open_scorer
from services.result import answer_json
from services.retrieval.local import open_retriever
from services.settings import Settings
from tenants.errors import FathomError, InvalidInput, Unavailable
from tenants.scope import TenantScope

INLINE = 64  # questions: less work than starting Ray for it
BATCH = 32
IN_FLIGHT = 16
QUESTION_S = 600.0  # one question at most
WAIT_S = 60.0  # for generators that are just starting
_ACTOR_CPUS = 0.5  # logical: a model uses all cores
_CALLER = Caller("answers", "offline")
_log = logging.getLogger(__name__)


def answers(questions: Sequence[tuple[str, str]], scope: TenantScope, settings: Settings, ask: Ask) -> Iterator[Row]:
    """Each question's answer or error, in the order in which they get done. A tenant's generator may need Ray."""
    if len(questions) <= INLINE and not settings.generators and not ray.is_initialized():
        return _inline(questions, scope, settings, ask)
    return _line(questions, scope, settings, ask)


def _inline(questions: Sequence[tuple[str, str]], scope: TenantScope, settings: Settings, ask: Ask) -> Iterator[Row]:
    if not questions:
        return
    worker = _Worker(scope, settings, ask)
    for start in range(0, len(questions), BATCH):
        yield from worker.ask(questions[start : start + BATCH])


def _line(questions: Sequence[tuple[str, str]], scope: TenantScope, settings: Settings, ask: Ask) -> Iterator[Row]:
    if not questions:
        return
    connect(settings)
    workers = max(1, sum(bool(node["Alive"]) and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes()))
    rows = [{"_id": name, "text": text} for name, text in questions]
    line = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // BATCH)).map_batches(
        _Answer,
        fn_constructor_args=(scope, settings, ask),
        batch_size=BATCH,
        batch_format="pyarrow",
        num_cpus=_ACTOR_CPUS,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
    )
    for batch in line.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from (json.loads(text) for text in batch["row"].to_pylist())


class _Worker:
    """Holds retriever, models and generators for the life of its process, and one event loop."""

    def __init__(self, scope: TenantScope, settings: Settings, ask: Ask) -> None:
        self._scope, self._plan = scope, ask
        self._runner = asyncio.Runner()
        self._steps = self._runner.run(_steps(scope, settings, ask))

    def ask(self, questions: Sequence[tuple[str, str]]) -> list[Row]:
        """The rows of one batch."""
        return self._runner.run(self._all(questions))

    async def _all(self, questions: Sequence[tuple[str, str]]) -> list[Row]:
        places = asyncio.Semaphore(IN_FLIGHT)

        async def one(name: str, text: str) -> Row:
            async with places:
                return await self._one(name, text)

        return await asyncio.gather(*(one(name, text) for name, text in questions))

    async def _one(self, name: str, text: str) -> Row:
        plan = self._plan
        deadline.start(QUESTION_S)  # this question's own: each is a task
        try:
            if not text.strip():
                raise InvalidInput("the question is empty")
            rerank = cast(RerankChoice, plan.rerank)
            question = Question(text, rerank=rerank, generator=plan.generator, max_tokens=plan.max_tokens)
            async with deadline.enforced():
                found = answer_json(await answer(question, self._scope, self._steps, _CALLER))
            if lost := [word for word in found["degraded"] if word.startswith("generator")]:
                raise Unavailable(f"the generator did not write it ({lost[0]}); run the same command again")
        except FathomError as error:
            return {"_id": name, "error": {"code": error.code, "detail": error.detail}}
        except Exception:  # noqa: BLE001 - one question's fault must not end the others
            _log.exception("a question failed")
            return {"_id": name, "error": {"code": "internal", "detail": "failed; the job's log says why"}}
        return {"_id": name, "answer": found}


class _Answer:
    """`_Worker` as Ray Data calls it."""

    def __init__(self, scope: TenantScope, settings: Settings, ask: Ask) -> None:
        self._worker = _Worker(scope, settings, ask)

    def __call__(self, rows: pa.Table) -> pa.Table:
        found = self._worker.ask(list(zip(rows["_id"].to_pylist(), rows["text"].to_pylist(), strict=True)))
        return pa.table({"row": [json.dumps(row) for row in found]})


async def _steps(scope: TenantScope, settings: Settings, ask: Ask) -> Steps:
    # Made inside the loop that they will be used from.
    rerankers = scope.config.rerankers
    scorer = open_scorer(settings, [rerankers.small, rerankers.large], Uncounted())
    retriever: Any = await asyncio.to_thread(open_retriever, settings)
    await asyncio.to_thread(scorer.wait)
    generators = open_generators(settings)
    generators.require(ask.generator)
    await generators.wait(WAIT_S)
    answerer = GroundedAnswerer(ExtractiveAnswerer(retriever), generators)
    return Steps(retriever, AdaptiveReranker(scorer), answerer, open_audit_log(settings.audit_url))
