"""THE INDEX LINE as one Ray Data chain, and the way into a job.

Streaming: a shard is parsed while the one before it is embedded; Ray Data holds stages back when the store of
objects fills. An encoder writes what it has embedded while it embeds the next shard: no embedded shard waits in a
queue, so that a killed job has one per encoder to embed again, at most two where the storage is slow, and vectors
never cross the store of objects. Only receipts reach the driver. A job of few documents runs in the driver itself,
for starting workers would take longer than the work; it is the same stages either way.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray

from jobs.indexing import stages
from jobs.indexing.driver import Listener, plan_only, run_job
from jobs.indexing.job import IndexJob, JobResult, Receipt
from jobs.indexing.stages import LineContext, Parcel
from jobs.indexing.write import receipt_from_json, receipt_to_json
from services.settings import Settings
from tenants.scope import TenantScope
from tenants.store import Store

INLINE_SHARDS = 1  # of up to plan.SHARD_DOCUMENTS documents: less work than starting Ray's workers for it
_STAGE_CPUS = 0.25  # logical: parsing and chunking share the cores with the encoder, which uses all of them
_EMBED_CPUS = 0.5
_CALLS = 2  # of one encoder at a time: one embeds, one writes


def run_index_job(
    spec: IndexJob, scope: TenantScope, store: Store, settings: Settings, progress: Listener | None = None
) -> JobResult:
    """Run, or go on with, one job; see `driver.run_job`. `dry_run` gives the plan and changes nothing."""
    if spec.dry_run:
        return plan_only(spec, scope, store, settings)

    def process(shards: Sequence[int], context: LineContext) -> Iterator[Receipt]:
        if len(shards) <= INLINE_SHARDS and not ray.is_initialized():
            return stages.run_inline(shards, context)
        return index_line(shards, context, settings)

    return run_job(spec, scope, store, settings, process, progress)


def index_line(shards: Sequence[int], context: LineContext, settings: Settings) -> Iterator[Receipt]:
    """Source → parse → chunk → embed → write; gives receipts in the order in which shards get done."""
    connect(settings)
    encoders, gpus = _encoders(settings)
    task: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": _STAGE_CPUS}
    line = (
        ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        .map_batches(_parse, fn_args=(context,), **task)
        .map_batches(_chunk, fn_args=(context,), **task)
        .map_batches(
            _EmbedAndWrite,
            fn_constructor_args=(context,),
            batch_size=1,  # a shard is one row; with GPUs Ray Data wants a number
            batch_format="pyarrow",
            num_cpus=_EMBED_CPUS,
            num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(
                size=encoders,
                max_tasks_in_flight_per_actor=_CALLS + 1,
                max_concurrent_calls_per_actor=_CALLS,
                enable_true_multi_threading=True,
            ),
        )
    )
    for row in line.iter_rows():
        yield receipt_from_json(row["receipt"])


def connect(settings: Settings) -> None:
    """Join the cluster that the settings or Ray's own environment name, else start one on this machine."""
    if not ray.is_initialized():
        with warnings.catch_warnings():
            # Ray starts its processes by fork and exec at once, which is safe for Lance.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            ray.init(
                address=settings.ray_address,
                log_to_driver=False,
                logging_level=logging.WARNING,
                include_dashboard=False if settings.ray_address is None else None,
            )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _encoders(settings: Settings) -> tuple[int, float]:
    """(encoders, GPUs of each): one a GPU where there are any, else one a node, as each uses all of its cores."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and settings.device != "cpu":
        return gpus, settings.encoder_gpus
    nodes = sum(bool(node["Alive"]) and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    return max(1, nodes), 0.0


def _parse(rows: pa.Table, context: LineContext) -> pa.Table:
    return stages.parse_shard(rows["shard"][0].as_py(), context).to_arrow()


def _chunk(rows: pa.Table, context: LineContext) -> pa.Table:
    return stages.chunk_parcel(Parcel.from_arrow(rows), context).to_arrow()


class _EmbedAndWrite:
    """Holds one encoder for the life of its actor; embeds one shard at a time, beside it another may be written."""

    def __init__(self, context: LineContext) -> None:
        self._context = context
        self._embed = stages.load_embed(context)
        self._embeds = threading.Lock()

    def __call__(self, rows: pa.Table) -> pa.Table:
        parcel = Parcel.from_arrow(rows)
        with self._embeds:
            embedded = stages.embed_parcel(parcel, self._embed)
        receipt = stages.write_parcel(embedded, self._context)
        return pa.table({"receipt": [receipt_to_json(receipt)]})
