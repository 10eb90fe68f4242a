"""The MLflow server of one platform: SQLite and artefacts in the data dir, on loopback, one worker."""

from __future__ import annotations

import sys

from cluster.platform import PlatformInfo


def mlflow_command(info: PlatformInfo) -> list[str]:
    """Runs from the same environment; artefacts go through the server, so a client needs nothing but its address."""
    return [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "server",
        "--host=127.0.0.1",
        f"--port={info.ports.mlflow}",
        f"--backend-store-uri=sqlite:///{info.data_dir}/mlflow.db",
        f"--artifacts-destination=file://{info.data_dir}/mlartifacts",
        "--workers=1",
    ]


def mlflow_environment() -> dict[str, str]:
    """No telemetry, no job runner processes, no git."""
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }
