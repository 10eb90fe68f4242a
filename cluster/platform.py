"""PlatformInfo: what one running platform is and where its parts answer; kept in `run/platform.json`.

The file is written atomically, mode 0600. It exists from before the first process starts until the last one
is gone, so that a start that was cut short can still be taken down.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.settings import Settings
from tenants.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of one platform, all on loopback."""

    http: int
    mlflow: int
    ray: int
    ray_client: int
    dashboard: int
    agent: int
    metrics: int
    autoscaler_metrics: int
    dashboard_metrics: int
    haproxy_metrics: int
    haproxy_stats: int
    serve_fallback: int


@dataclass(frozen=True, slots=True)
class PlatformInfo:
    """One platform on this machine.

    `id` marks its processes (their environment holds it); `temp_dir` is Ray's, short because socket paths end at
    107 bytes. `ready` is false while `up` is at work or after it failed.
    """

    id: str
    data_dir: str
    temp_dir: str
    ports: Ports
    mlflow: str
    started_at: str
    version: str
    ready: bool = False
    pids: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the HTTP API answers."""
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def dashboard(self) -> str:
        """Ray's dashboard; it asks for the token in `secrets/ray.token`."""
        return f"http://127.0.0.1:{self.ports.dashboard}"

    @property
    def ray_address(self) -> str:
        """Where a Ray driver attaches."""
        return f"127.0.0.1:{self.ports.ray}"

    @property
    def ray_token_path(self) -> str:
        """The file with Ray's token."""
        return str(Path(self.data_dir) / "secrets" / "ray.token")

    def document(self) -> dict[str, Any]:
        """What `fathom up --json` prints. `console` stays null until there is one."""
        return {
            "url": self.url,
            "console": None,
            "docs": f"{self.url}/docs",
            "dashboard": self.dashboard,
            "mlflow": self.mlflow,
            "data_dir": self.data_dir,
            "ray_address": self.ray_address,
            "metrics": f"http://127.0.0.1:{self.ports.metrics}/metrics",
        }


def record_path(data_dir: str) -> Path:
    """Where the record of the platform on `data_dir` lies."""
    return Path(data_dir).absolute() / "run" / "platform.json"


def read_record(data_dir: str) -> PlatformInfo | None:
    """The recorded platform, running or not; None when there is none.

    Raises `IntegrityError` when the file is not a record.
    """
    path = record_path(data_dir)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return PlatformInfo(**{**raw["platform"], "ports": Ports(**raw["platform"]["ports"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(f"{path} is not a platform record; delete it and start again") from None


def write_record(info: PlatformInfo) -> None:
    """Replace the record in one step; readers see the old or the new one.

    `url` and `dashboard` stand at the top for people and scripts.
    """
    path = record_path(info.data_dir)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({**info.document(), "platform": dataclasses.asdict(info)}, indent=2), encoding="utf-8")
    draft.chmod(0o600)
    draft.replace(path)


def remove_record(data_dir: str) -> None:
    """Forget the platform; fine when there is none."""
    record_path(data_dir).unlink(missing_ok=True)


def platform_settings(settings: Settings, info: PlatformInfo) -> Settings:
    """`settings` with everything resolved that a part of the running platform needs."""
    return settings.model_copy(
        update={
            "data_dir": info.data_dir,
            "data_root": settings.root,
            "database_url": settings.control_url,
            "audit_database_url": settings.audit_url,
            "mlflow_tracking_uri": info.mlflow,
            "url": info.url,
            "port": info.ports.http,
            "ray_address": info.ray_address,
        }
    )


def settings_path(info: PlatformInfo) -> Path:
    """The file with every resolved setting of the running platform, mode 0600: it holds secrets."""
    return Path(info.data_dir) / "run" / "settings.json"
