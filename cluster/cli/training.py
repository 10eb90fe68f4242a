"""Runs `fathom train` in this process: on the running platform's Ray and MLflow, else on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.cli.attaching import attached
from jobs.training.order import Order, checked
from jobs.training.reranker import run_order
from services.settings import Settings


def run_training(order: Order, settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """See `jobs.training.job.train`."""
    checked(order)
    settings = attached(settings)
    return run_order(order, settings, report)
