"""Runs `fathom train` in this process: on the running platform's Ray and MLflow, else on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.cli.indexing import QUIET
from cluster.platform import platform_settings
from cluster.ray_head import driver_environment
from cluster.status import running_platform
from jobs.training.order import Order, checked
from jobs.training.reranker import run_order
from services.settings import FOREIGN, Settings, adopt_environment


def run_training(order: Order, settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """See `jobs.training.job.train`."""
    checked(order)
    info = running_platform(settings.data_dir)
    if info is not None:
        adopt_environment(driver_environment(info), drop=FOREIGN)
        settings = platform_settings(settings, info)
    adopt_environment(QUIET)
    return run_order(order, settings, report)
