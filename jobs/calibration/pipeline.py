"""Full reranks of many questions as one Ray Data chain, or in this process when they are few.

questions → retrieve, fuse, both cross-encoders (one actor a node or GPU, which holds the models) → logs
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray

from jobs.calibration.collecting import Collector
from jobs.calibration.logs import Logged, from_arrow, to_arrow
from jobs.calibration.questions import Asked, Questions
from jobs.indexing.pipeline import connect
from services.contracts import CrossEncoderFacts
from services.reranking.facts import Role
from services.reranking.local import open_scorer
from services.retrieval.local import open_retriever
from services.settings import Settings
from tenants.scope import TenantScope

INLINE = 64  # questions: less work than starting Ray for it
BATCH = 8
_ACTOR_CPUS = 0.5  # logical: a model uses all cores

Found = tuple[Logged | None, dict[Role, CrossEncoderFacts]]


def collect(questions: Questions, scope: TenantScope, settings: Settings) -> Iterator[Found]:
    """Each question's log (None: nothing was found) with the models that scored it, in any order."""
    if len(questions.asked) <= INLINE and not ray.is_initialized():
        return _inline(questions, scope, settings)
    return _line(questions, scope, settings)


def _inline(questions: Questions, scope: TenantScope, settings: Settings) -> Iterator[Found]:
    worker = _Worker(scope, settings)
    for asked in questions.asked:
        yield worker.ask(asked), worker.models


def _line(questions: Questions, scope: TenantScope, settings: Settings) -> Iterator[Found]:
    connect(settings)
    workers, gpus = _workers(settings)
    rows = [{"asked": json.dumps(asdict(asked))} for asked in questions.asked]
    line = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // BATCH)).map_batches(
        _Collect,
        fn_constructor_args=(scope, settings),
        batch_size=BATCH,
        batch_format="pyarrow",
        num_cpus=_ACTOR_CPUS,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
    )
    for batch in line.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            models = {role: _facts(one) for role, one in json.loads(row["models"]).items()}
            yield (_read(row["log"]) if row["log"] is not None else None), models


class _Uncounted:
    """batching.Meter for a job, whose pairs are no traffic."""

    def scored(self, tenant: str, model: str, pairs: int, cached: int) -> None:
        """Nothing."""

    def batch(self, model: str, pairs: int, fill: float) -> None:
        """Nothing."""

    def queued(self, model: str, pairs: int) -> None:
        """Nothing."""


class _Worker:
    """Holds retriever and models for the life of its process, and one event loop."""

    def __init__(self, scope: TenantScope, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        self._collector = self._runner.run(_collector(scope, settings))
        self.models = self._runner.run(self._collector.models())

    def ask(self, asked: Asked) -> Logged | None:
        return self._runner.run(self._collector.collect(asked, tuple(self.models)))


class _Collect:
    """`_Worker` as Ray Data calls it."""

    def __init__(self, scope: TenantScope, settings: Settings) -> None:
        self._worker = _Worker(scope, settings)
        self._models = json.dumps({role: asdict(one) for role, one in self._worker.models.items()})

    def __call__(self, rows: pa.Table) -> pa.Table:
        found = [self._worker.ask(Asked(**json.loads(text))) for text in rows["asked"].to_pylist()]
        logs = pa.array([None if one is None else _written(one) for one in found], pa.binary())
        return pa.table({"log": logs, "models": [self._models] * len(found)})


async def _collector(scope: TenantScope, settings: Settings) -> Collector:
    # Made inside the loop that it will be used from.
    rerankers = scope.config.rerankers
    scorer = open_scorer(settings, [rerankers.small, rerankers.large], _Uncounted())
    return Collector(scope, await asyncio.to_thread(open_retriever, settings), scorer)


def _workers(settings: Settings) -> tuple[int, float]:
    """(workers, GPUs of each): one a GPU where there are any, else one a node."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and settings.device != "cpu":
        return gpus, settings.encoder_gpus
    nodes = sum(bool(node["Alive"]) and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    return max(1, nodes), 0.0


def _facts(value: dict[str, Any]) -> CrossEncoderFacts:
    read: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
    return CrossEncoderFacts(**read)


def _written(one: Logged) -> bytes:
    sink = pa.BufferOutputStream()
    table = to_arrow([one])
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _read(payload: bytes) -> Logged:
    return from_arrow(pa.ipc.open_stream(payload).read_all())[0]
