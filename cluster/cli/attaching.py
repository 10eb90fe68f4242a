"""Makes this process a driver for a job: on the running platform's Ray and MLflow, else on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.platform import platform_settings, settings_path
from cluster.ray_head import driver_environment
from cluster.status import running_platform
from services.settings import FOREIGN, Settings, adopt_environment, load_settings

if TYPE_CHECKING:
    from services.contracts import Answerer, Retriever

# Ray's and MLflow's own remarks do not belong between the lines of a progress; failures reach us as exceptions.
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_LOG_LEVEL": "ERROR", "MLFLOW_LOGGING_LEVEL": "ERROR"}


def attached(settings: Settings) -> Settings:
    """The settings to work with, the running platform's where there is one; call it before Ray is imported."""
    info = running_platform(settings.data_dir)
    if info is not None:
        adopt_environment(driver_environment(info), drop=FOREIGN)
        serving = load_settings(settings_path(info)).generators
        settings = platform_settings(settings, info).model_copy(update={"generators": serving})
    adopt_environment(QUIET)
    return settings


def generating(settings: Settings, retriever: Retriever, asked: Sequence[str | None]) -> Answerer:
    """The answerer of those settings in this process; the running platform's generators are reached through its Ray.

    Raises `InvalidInput` for a generator of `asked` that there is none of.
    """
    from jobs.indexing.pipeline import connect
    from services.evidence.extract import ExtractiveAnswerer
    from services.generation.answerer import GroundedAnswerer
    from services.handles import open_generators

    if settings.ray_address and any(model.base_url is None for model in settings.generators.values()):
        connect(settings)
    generators = open_generators(settings)
    for name in asked:
        generators.require(name)
    return GroundedAnswerer(ExtractiveAnswerer(retriever), generators)
