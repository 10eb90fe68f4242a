"""Makes this process a driver for a job: on the running platform's Ray and MLflow, else on its own."""

from __future__ import annotations

from cluster.platform import platform_settings
from cluster.ray_head import driver_environment
from cluster.status import running_platform
from services.settings import FOREIGN, Settings, adopt_environment

# Ray's and MLflow's own remarks do not belong between the lines of a progress; failures reach us as exceptions.
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_LOG_LEVEL": "ERROR", "MLFLOW_LOGGING_LEVEL": "ERROR"}


def attached(settings: Settings) -> Settings:
    """The settings to work with, the running platform's where there is one; call it before Ray is imported."""
    info = running_platform(settings.data_dir)
    if info is not None:
        adopt_environment(driver_environment(info), drop=FOREIGN)
        settings = platform_settings(settings, info)
    adopt_environment(QUIET)
    return settings
