"""Many labelled questions through the line that serves one: figures, latencies, and a run in MLflow.

`evaluate` asks in process, one question after another (so that a latency is one question's), grouped by document,
at the version that is published when it starts. Questions of an evaluation are not a tenant's: nothing is audited.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jobs.evaluation.answering import Written, summary, write
from jobs.evaluation.answering import figure_of as answer_figure
from jobs.evaluation.datasets import Dataset
from jobs.evaluation.metrics import per_query
from jobs.tracking import run
from services.contracts import AuditRecord, Caller, Question, RerankChoice
from services.generation.prompt import version_of
from services.query import Steps, search
from services.result import SearchResult
from services.settings import Settings
from tenants.corpus.release import pinned
from tenants.errors import InvalidInput
from tenants.scope import TenantScope

EXPERIMENT = "fathom/evaluation"
DEEP = 100
_CALLER = Caller("evaluation", "evaluation")


class Unrecorded:
    """contracts.AuditLog that keeps nothing."""

    async def append(self, scope: TenantScope, record: AuditRecord) -> None:
        """Nothing of an evaluation is a tenant's query."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask: how to rerank, the cut-off `k`, the first `limit` questions, with answers or not."""

    rerank: RerankChoice = "auto"
    depth: int | None = None
    k: int = 10
    limit: int | None = None
    answers: bool = False
    generators: tuple[str | None, ...] = (None,)  # None = the tenant's own


@dataclass(frozen=True, slots=True)
class Asked:
    """One question's outcome: documents best first, cross-encoder pairs, wall milliseconds, an answer a generator.

    `degraded` is what the search lacked.
    """

    documents: tuple[str, ...]
    pairs: int
    latency_ms: float
    written: tuple[Written, ...] = ()
    degraded: tuple[str, ...] = ()


def evaluate(
    dataset: Dataset,
    scope: TenantScope,
    steps: Steps,
    settings: Settings,
    plan: Plan,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The `eval` document of CONTRACT section 2. Raises `InvalidInput` without a question or a published index."""
    scope = pinned(scope)
    queries = dict(list(dataset.queries.items())[: plan.limit])
    if not queries:
        raise InvalidInput("there is no judged question; check that both files speak of the same query ids")
    if scope.release is None:
        raise InvalidInput("the tenant has no published index; index documents first")
    with run(settings, EXPERIMENT, params_of(dataset, scope, plan, len(queries))) as tracked:
        line = replace(steps, audit=Unrecorded())
        asked = asyncio.run(_ask_all(queries, scope, line, plan, dataset, progress))
        report = report_of(asked, dataset, plan)
        tracked.metrics({name.replace("@", "_at_"): value for name, value in report["metrics"].items()})
        tracked.metrics({f"latency_{name}_ms": value for name, value in report["latency_ms"].items()})
        tracked.document({"dataset": dataset.digest, **report}, "evaluation.json")
        tracked.figure(figure_of(asked, dataset, plan.k), "evaluation.png")
        if plan.answers:
            for name, figures in report["answer_metrics"].items():
                tracked.metrics({f"{_plain(name)}_{figure}": value for figure, value in figures.items()})
            tracked.figure(answer_figure(_by_generator(asked, plan)), "answers.png")
        return {**report, "run_id": tracked.wait_for_id()}


def report_of(asked: Mapping[str, Asked], dataset: Dataset, plan: Plan) -> dict[str, Any]:
    """Metrics, cost and latencies of what was asked; ties cannot occur, a list's order is its ranking."""
    latency = np.percentile([item.latency_ms for item in asked.values()], [50, 95, 99])
    report: dict[str, Any] = {
        "metrics": {
            name: round(float(np.mean(list(values.values()))), 6)
            for name, values in values_of(asked, dataset, plan.k).items()
        },
        "queries": len(asked),
        "pairs_per_query": float(np.mean([item.pairs for item in asked.values()])),
        "latency_ms": dict(zip(("p50", "p95", "p99"), np.round(latency, 3).tolist(), strict=True)),
    }
    if plan.answers:
        states = [item.written[0].grounded for item in asked.values()]
        report["answers"] = {state: states.count(state) for state in ("full", "partial", "abstained")}
        report["answer_metrics"] = {name: summary(one) for name, one in _by_generator(asked, plan).items()}
    return report


def values_of(asked: Mapping[str, Asked], dataset: Dataset, k: int) -> dict[str, dict[str, float]]:
    """{metric: {query: value in 0 … 1, higher is better}}: nDCG@k, recall@100, MRR@k, MAP@100, in this order."""
    grades = {query: dataset.judgements[query] for query in asked}
    lists = _run_of(asked)
    cuts = {f"ndcg@{k}": k, f"recall@{DEEP}": DEEP, f"mrr@{k}": k, f"map@{DEEP}": DEEP}
    return {name: per_query(lists, grades, name.split("@")[0], cut) for name, cut in cuts.items()}


def figure_of(asked: Mapping[str, Asked], dataset: Dataset, k: int) -> Figure:
    """Two histograms: nDCG@k by question, and latency."""
    grades = {query: dataset.judgements[query] for query in asked}
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(list(per_query(_run_of(asked), grades, "ndcg", k).values()), bins=20, range=(0, 1), color="#3b6ea5")
    left.set(xlabel=f"nDCG@{k}", ylabel="questions", title="Quality by question")
    right.hist([item.latency_ms for item in asked.values()], bins=30, color="#3b6ea5")
    right.set(xlabel="milliseconds", ylabel="questions", title="Latency")
    return figure


async def _ask_all(
    queries: Mapping[str, str],
    scope: TenantScope,
    steps: Steps,
    plan: Plan,
    dataset: Dataset,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Asked]:
    asked: dict[str, Asked] = {}
    for number, query in enumerate(queries, 1):
        asked[query] = await ask(query, scope, steps, plan, dataset)
        if progress is not None:
            progress(number, len(queries))
    return asked


async def ask(query: str, scope: TenantScope, steps: Steps, plan: Plan, dataset: Dataset) -> Asked:
    """One question of the dataset, by id: searched, and answered by every generator of the plan where it says so."""
    text = dataset.queries[query]
    found = await _search(text, scope, steps, plan)
    if not plan.answers:
        return found
    relevant, gold = dataset.judgements[query], dataset.answers.get(query, ())
    question = Question(text, rerank=plan.rerank, depth=plan.depth)
    written = [await write(replace(question, generator=name), scope, steps, relevant, gold) for name in plan.generators]
    return replace(found, written=tuple(written))


async def _search(text: str, scope: TenantScope, steps: Steps, plan: Plan) -> Asked:
    question = Question(text, top_k=DEEP, rerank=plan.rerank, depth=plan.depth, group_by="document")
    began = time.perf_counter()
    found = await search(question, scope, steps, _CALLER)
    latency_ms = (time.perf_counter() - began) * 1000
    return Asked(_documents(found), found.ranked.pairs, latency_ms, degraded=tuple(found.degraded))


def _by_generator(asked: Mapping[str, Asked], plan: Plan) -> dict[str, list[Written]]:
    """Every question's answers by the generator that was asked for."""
    return {
        name or "tenant": [item.written[place] for item in asked.values()] for place, name in enumerate(plan.generators)
    }


def _plain(name: str) -> str:
    return "".join(char if char.isalnum() or char in "_-." else "_" for char in name)


def _documents(found: SearchResult) -> tuple[str, ...]:
    return tuple(hit.passage.document_id for hit in found.results)


def _run_of(asked: Mapping[str, Asked]) -> dict[str, dict[str, float]]:
    return {query: _scores(item.documents) for query, item in asked.items()}


def _scores(documents: Sequence[str]) -> dict[str, float]:
    return {document: -float(rank) for rank, document in enumerate(documents)}


def params_of(dataset: Dataset, scope: TenantScope, plan: Plan, queries: int) -> dict[str, object]:
    """What was asked, of which questions, over which index: the parameters of a run. `scope` has a release."""
    release = scope.release
    assert release is not None
    return {
        **asdict(plan),
        "tenant": scope.uid,
        "index_version": release.version,
        "fingerprint": release.fingerprint,
        "embedder": release.embedder,
        "prompt": version_of(scope.config.answer.instructions),
        "chunks": release.chunks,
        "dataset_digest": dataset.digest,
        "queries": queries,
    }
