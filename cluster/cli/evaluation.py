"""Runs `fathom eval` in this process: the very line that serves, on the data dir's own corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.cli.attaching import attached, generating
from jobs.evaluation.datasets import load_dataset
from jobs.evaluation.pipeline import Plan, Unrecorded, evaluate
from services.control_plane import open_control_plane
from services.evidence.extract import ExtractiveAnswerer
from services.experiments.serving import Variants
from services.query import Steps
from services.reranking.adaptive import AdaptiveReranker
from services.reranking.local import Uncounted, open_scorer
from services.retrieval.local import open_retriever
from services.settings import Settings
from tenants.errors import InvalidInput
from tenants.ids import tenant_name


def run_evaluation(settings: Settings, tenant: str, queries: Path, qrels: Path, plan: Plan) -> dict[str, Any]:
    """The report of `jobs.evaluation.pipeline.evaluate`, logged to the running platform's MLflow when there is one.

    Raises `InvalidInput` for a missing file.
    """
    for path in (queries, qrels):
        if not path.is_file():
            raise InvalidInput(f"there is no file {path}; check the path")
    settings = attached(settings)
    dataset = load_dataset(queries, qrels)
    store = open_control_plane(settings)
    scope = Variants().champion(store.scope_of(store.get_tenant(tenant_name(tenant)), settings.root))
    retriever = open_retriever(settings)
    scorer = open_scorer(settings, [scope.config.rerankers.small, scope.config.rerankers.large], Uncounted())
    answerer = generating(settings, retriever, plan.generators) if plan.answers else ExtractiveAnswerer(retriever)
    steps = Steps(retriever, AdaptiveReranker(scorer), answerer, Unrecorded())
    try:
        scorer.wait()
        return evaluate(dataset, scope, steps, settings, plan)
    finally:
        scorer.close()
