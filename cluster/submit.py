"""Ray's Jobs API: submit the fixed indexing entrypoint, follow it, stop it.

The job id is Ray's submission id, so that submitting twice runs once.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from tenants.errors import Conflict, Unavailable

POLL_S = 0.5
ROOT = Path(__file__).resolve().parents[1]


def entrypoint(tenant: str, job_id: str, sources: Sequence[str], flags: Sequence[str] = ()) -> str:
    """The one command that a job runs, every part quoted."""
    parts = ["python", "-m", "jobs.indexing", "--tenant", tenant, "--job-id", job_id]
    for source in sources:
        parts += ["--source", source]
    return shlex.join([*parts, *flags])


class RayJobs:
    """The Jobs API of one cluster; `address` is the dashboard's, `http://HEAD:8265`."""

    def __init__(self, address: str, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else None
        try:
            self._client = JobSubmissionClient(address, headers=headers)
        except (ConnectionError, RuntimeError) as error:
            raise Unavailable(f"no Ray dashboard takes jobs at {address}: {_first(error)}") from None

    def submit(
        self, job_id: str, command: str, environment: Mapping[str, str], *, working_dir: str | None = None
    ) -> None:
        """Queue `command`. Raises `Conflict` when the id is taken, `Unavailable` when the cluster refuses."""
        runtime_env: dict[str, object] = {"env_vars": dict(environment)}
        if working_dir:
            runtime_env["working_dir"] = working_dir
        try:
            self._client.submit_job(entrypoint=command, submission_id=job_id, runtime_env=runtime_env)
        except RuntimeError as error:
            if "already exists" in str(error):
                raise Conflict(f"job {job_id} was submitted before; follow it with `fathom job {job_id}`") from None
            raise Unavailable(f"the cluster refused job {job_id}: {_first(error)}") from None

    def stop(self, job_id: str) -> bool:
        """Ask the job's process to end; False when it is gone already."""
        try:
            return bool(self._client.stop_job(job_id))
        except RuntimeError:
            return False

    def wait(self, job_id: str, tick: Callable[[], None]) -> JobStatus:
        """Block until the job ended, calling `tick` in between."""
        while not (status := self._client.get_job_status(job_id)).is_terminal():
            tick()
            time.sleep(POLL_S)
        return status

    def logs(self, job_id: str) -> str:
        """Everything that the job's driver printed."""
        return str(self._client.get_job_logs(job_id))


def last_lines(text: str, count: int) -> Iterator[str]:
    """The last `count` lines that say something."""
    yield from [line for line in text.splitlines() if line.strip()][-count:]


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
