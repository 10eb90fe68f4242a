"""What several rooms' tests share: one running platform for the whole session, and the labelled corpora."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
COMMAND_LIMIT_S = 800  # a guard against hanging, far above what a busy machine needs
# On the platforms that tests start, only hanging ends a request: a busy machine's slowness is not what they look for.
PATIENCE = {
    "FATHOM_REQUEST_TIMEOUT_S": "300",
    "FATHOM_WRITE_TIMEOUT_S": "600",
    "FATHOM_RETRIEVAL__LEG_TIMEOUT_S": "120",
}

# How long an example takes tells of the machine, not of the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@dataclass(frozen=True)
class Ran:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout is one JSON document and nothing else: what is left over raises."""
        return json.loads(self.out)


@dataclass(frozen=True)
class CommandLine:
    """`fathom` on one data dir, as a process of its own, with no setting of the developer's own shell."""

    data_dir: Path
    extra: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FATHOM_", "RAY_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        return {**kept, **PATIENCE, "PATH": path, "FATHOM_DATA_DIR": str(self.data_dir), **self.extra}

    def __call__(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=limit_s,
            env=self.environment(),
            cwd=ROOT,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> Any:
        """Run with --json, expect success, return the document."""
        ran = self(*arguments, "--json", limit_s=limit_s)
        assert ran.code == 0, f"fathom {' '.join(arguments)}: {ran.code}\n{ran.out}\n{ran.err}"
        return ran.json


@dataclass(frozen=True)
class RunningPlatform:
    """A platform that answers at `url`; `cli` is on its data dir."""

    url: str
    data_dir: Path
    admin_key: str
    cli: CommandLine


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """The one platform that every cluster test shares; tests make tenants of their own on it."""
    data_dir = tmp_path_factory.mktemp("platform")
    cli = CommandLine(data_dir)
    try:
        info = cli.ok("up")
        key = (data_dir / "secrets" / "admin.key").read_text().strip()
        yield RunningPlatform(info["url"], data_dir, key, cli)
    finally:
        cli("down")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of labelled corpora; what needs it skips without it."""
    folder = os.environ.get("FATHOM_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FATHOM_TEST_DATA does not name the folder with the labelled corpora")
    return Path(folder)
