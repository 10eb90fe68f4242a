"""Indexing jobs through the Ray Jobs API: the fixed entrypoint, the tenant's job id as submission id.

The arguments come from a validated body and are quoted; a tenant never chooses a command, an environment or a
working directory. The job reads its settings as the gateway did: from the file or the environment handed on here.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray.job_submission import JobSubmissionClient

from services.settings import Settings
from tenants.errors import Unavailable

ENTRYPOINT = "jobs.indexing"
DRIVER_CPUS = 0.1  # a driver mostly waits; not nothing, so that a node takes only so many
SECRETS = {"admin_key", "api_key", "pepper"}


class RayJobs:
    """ports.JobSubmitter."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def submit(self, tenant: str, job_id: str, spec: Mapping[str, Any]) -> None:
        """Queue the job; the same id is queued once. Raises `Unavailable`."""
        await asyncio.to_thread(self._submit, tenant, job_id, spec)

    async def stop(self, job_id: str) -> None:
        """Stop the job's process if it still runs."""
        await asyncio.to_thread(self._stop, job_id)

    async def is_lost(self, job_id: str) -> bool:
        """Whether Ray knows the job and its process has ended; a job that another machine runs is not lost."""
        return await asyncio.to_thread(self._is_lost, job_id)

    @cached_property
    def _client(self) -> JobSubmissionClient:
        # GCS knows where the dashboard of this replica's cluster answers; the token comes from Ray's own environment.
        return JobSubmissionClient(ray.get_runtime_context().gcs_address)

    def _submit(self, tenant: str, job_id: str, spec: Mapping[str, Any]) -> None:
        try:
            self._client.submit_job(
                entrypoint=entrypoint(tenant, job_id, spec),
                submission_id=job_id,
                entrypoint_num_cpus=DRIVER_CPUS,
                runtime_env={"env_vars": job_environment(self._settings)},
            )
        except (RuntimeError, ConnectionError, OSError) as error:
            raise Unavailable("no job can be started now; try again", retry_after_s=5) from error

    def _is_lost(self, job_id: str) -> bool:
        try:
            return bool(self._client.get_job_status(job_id).is_terminal())
        except (RuntimeError, ConnectionError, OSError):
            return False

    def _stop(self, job_id: str) -> None:
        try:
            self._client.stop_job(job_id)
        except (RuntimeError, ConnectionError, OSError) as error:
            if "does not exist" not in str(error):
                raise Unavailable("the job cannot be reached now; try again", retry_after_s=5) from error


def entrypoint(tenant: str, job_id: str, spec: Mapping[str, Any]) -> str:
    """`python -m jobs.indexing --tenant … --submitted … --source …`, every argument quoted."""
    words = [sys.executable, "-m", ENTRYPOINT, "--tenant", tenant, "--submitted", job_id]
    for source in spec["sources"]:
        words += ["--source", str(source)]
    words += ["--collection", str(spec.get("collection", "default"))]
    words += [f"--{flag.replace('_', '-')}" for flag in ("sync", "dry_run", "yes", "untrusted") if spec.get(flag)]
    return shlex.join(words)


def job_environment(settings: Settings) -> dict[str, str]:
    """The settings as `FATHOM_*` variables, without secrets: the Jobs API shows a job's environment.

    A job finds its secrets where the gateway did: in the platform's files, or in the environment of its node.
    """
    values = settings.model_dump(mode="json", exclude_defaults=True, exclude=SECRETS)
    root = str(Path(__file__).resolve().parent.parent)
    return {"PYTHONPATH": root} | {
        f"FATHOM_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
        if value is not None and not (name.endswith("_url") and "@" in str(value))
    }
