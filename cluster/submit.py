"""One job on a cluster through Ray's Jobs API, as `ray job submit --working-dir .` would: start, follow, stop.

The cluster's own environment says where the data lies; what the operator set here (`FATHOM_*`) goes along, but
never a secret that lies in a file.
"""

from __future__ import annotations

import time
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from cluster.ray_jobs import job_environment
from services.settings import Settings
from tenants.errors import Unavailable

POLL_S = 0.5
ROOT = Path(__file__).resolve().parents[1]


class Submission:
    """One submission; `identity` is Ray's submission id, so that starting it twice runs it once.

    `address` is the dashboard's, `http://HEAD:8265`; the token comes from Ray's own environment.
    """

    def __init__(self, address: str, identity: str) -> None:
        self._identity = identity
        try:
            self._client = JobSubmissionClient(address)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Unavailable(f"no Ray dashboard takes jobs at {address}: {_first(error)}") from None

    def start(self, command: str, settings: Settings) -> None:
        """Queue `command`, this checkout as its working directory. Raises `Unavailable` when it is refused."""
        variables = {name: value for name, value in job_environment(settings).items() if name != "PYTHONPATH"}
        try:
            self._client.submit_job(
                entrypoint=command,
                submission_id=self._identity,
                runtime_env={"working_dir": str(ROOT), "env_vars": variables},
            )
        except (RuntimeError, ConnectionError) as error:
            raise Unavailable(f"the cluster refused job {self._identity}: {_first(error)}") from None

    def wait(self) -> str:
        """Block until it ended; Ray's word for how."""
        while not (status := self._client.get_job_status(self._identity)).is_terminal():
            time.sleep(POLL_S)
        return str(status.value)

    def stop(self) -> None:
        """Ask its process to end."""
        self._client.stop_job(self._identity)

    def lines(self) -> list[str]:
        """What it printed, without empty lines."""
        return [line for line in self._client.get_job_logs(self._identity).splitlines() if line.strip()]


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
