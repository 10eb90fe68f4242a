"""Everything on this machine, and down again: control plane, MLflow, Ray head, Serve. `up` is the line.

`up` is safe to repeat: a running platform is left as it is, the remains of a crashed one are cleared first.
Two platforms share nothing but the machine: each data dir has its own ports, Ray, sessions and secrets.
"""

from __future__ import annotations

import dataclasses
import fcntl
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx

from cluster import processes
from cluster.ingress import serve_environment
from cluster.mlflow_server import mlflow_command, mlflow_environment
from cluster.platform import (
    PlatformInfo,
    platform_settings,
    read_record,
    remove_record,
    settings_path,
    write_record,
)
from cluster.ports import choose_ports
from cluster.ray_head import driver_environment, head_command, head_environment
from cluster.status import answer_status, is_answering, is_ready, is_running
from jobs.maintenance.sweep import sweep
from services.control_plane import open_control_plane, operator_key
from services.settings import Settings, child_environment, load_settings
from tenants.errors import Cancelled, Conflict, InFlight, Unavailable
from tenants.secrets import load_or_create_secret

START_LIMIT_S = 300.0
GENERATOR_LIMIT_S = 1_800.0  # a large model's weights are read, and its kernels compiled
GRACE_S = 2.0  # Ray drains for up to 30 s after a SIGTERM; nothing here depends on it
POLL_S = 0.1

Report = Callable[[str], None]


def up(settings: Settings, *, port_asked: bool = False, report: Report = lambda _: None) -> PlatformInfo:
    """Start what is not running; returns when /readyz answers 200. A busy platform is waited for, never replaced.

    Raises `Conflict` for a taken port that was asked for, `InFlight` while another `up` or `down` is at work,
    `Unavailable` naming the log when a part does not come up; nothing is left running then.
    """
    data_dir = str(Path(settings.data_dir).absolute())
    with _exclusive(data_dir):
        running = read_record(data_dir)
        if running and running.ready and is_running(running):
            _check_same(settings, running)
            _await("the gateway", running, "ray", lambda: is_ready(running))
            return running
        if running:
            _clear(running)
        info = _plan(settings, data_dir, port_asked=port_asked)
        write_record(info)
        try:
            return _start(info, settings, report)
        except (Unavailable, KeyboardInterrupt, Cancelled):
            _clear(info)
            raise


def down(data_dir: str) -> int:
    """Stop everything that `up` started on `data_dir`, crashed or not; returns how many processes there were."""
    folder = str(Path(data_dir).absolute())
    if not Path(folder).is_dir():
        return 0
    with _exclusive(folder):
        info = read_record(folder)
        return _clear(info) if info else 0


def _check_same(asked: Settings, running: PlatformInfo) -> None:
    """A running platform is never changed: one that lacks a generator that is asked for must be stopped first."""
    serving = load_settings(settings_path(running)).generators
    other = [name for name, model in asked.generators.items() if serving.get(name) != model]
    if other:
        raise Conflict(f"the platform runs without the generator {', '.join(other)}; run `fathom down` first")


def _plan(settings: Settings, data_dir: str, *, port_asked: bool) -> PlatformInfo:
    ports = choose_ports(settings.port, asked=port_asked)
    return PlatformInfo(
        id=secrets.token_hex(8),
        data_dir=data_dir,
        temp_dir=tempfile.mkdtemp(prefix="fathom-"),
        ports=ports,
        mlflow=settings.mlflow_tracking_uri or f"http://127.0.0.1:{ports.mlflow}",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("fathom"),
    )


def _start(info: PlatformInfo, settings: Settings, report: Report) -> PlatformInfo:
    report("control plane: opening the store")
    open_control_plane(settings).close()
    sweep(settings.root)
    operator_key(settings)
    load_or_create_secret(Path(info.ray_token_path))
    resolved = platform_settings(settings, info)
    _write_private(settings_path(info), resolved.model_dump_json(indent=2))
    started = {} if settings.mlflow_tracking_uri else {"mlflow": _start_mlflow(info)}
    report("Ray: starting the head")
    info = dataclasses.replace(info, pids={**started, "ray": _start_ray(info, resolved)})
    write_record(info)
    _await("Ray", info, "ray", lambda: is_answering(info.dashboard + "/api/version"))
    writers = ", ".join(settings.generators)
    report("Serve: starting the gateway" + (f", then {writers}, which may take minutes" if writers else ""))
    _deploy(info, resolved)
    _await("the gateway", info, "ray", lambda: is_ready(info))
    if "mlflow" in started:
        report("MLflow: waiting for its server")
        _await("MLflow", info, "mlflow", lambda: answer_status(info.mlflow + "/health") == httpx.codes.OK)
    info = dataclasses.replace(info, ready=True)
    write_record(info)
    return info


def _start_mlflow(info: PlatformInfo) -> int:
    return processes.start(mlflow_command(info), _environment(info, mlflow_environment()), _log(info, "mlflow"))


def _start_ray(info: PlatformInfo, settings: Settings) -> int:
    environment = _environment(info, head_environment(info, serve_environment(info, settings)))
    engines = [model.replicas for model in settings.generators.values() if model.base_url is None]
    engine_cpus = sum(size.max * size.cpus for size in engines)
    return processes.start(head_command(info, engine_cpus), environment, _log(info, "ray"))


def _deploy(info: PlatformInfo, settings: Settings) -> None:
    """Run `cluster.deploy` to its end."""
    command = [sys.executable, "-P", "-m", "cluster.deploy", str(settings_path(info))]
    serve = serve_environment(info, settings)
    environment = _environment(info, {**driver_environment(info), **serve})
    limit_s = START_LIMIT_S + GENERATOR_LIMIT_S * len(settings.generators)
    if not processes.run(command, environment, _log(info, "deploy"), limit_s):
        raise _failed("the Serve application", info, "deploy")


def _await(what: str, info: PlatformInfo, log: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not ready():
        if not processes.is_alive(info.pids[log]) or time.monotonic() > deadline:
            raise _failed(what, info, log)
        time.sleep(POLL_S)


def _failed(what: str, info: PlatformInfo, log: str) -> Unavailable:
    return Unavailable(f"{what} did not come up; see {_log(info, log)}, and `fathom doctor`")


def _clear(info: PlatformInfo) -> int:
    stopped = processes.stop(info.id, grace_s=GRACE_S)
    shutil.rmtree(info.temp_dir, ignore_errors=True)
    settings_path(info).unlink(missing_ok=True)
    remove_record(info.data_dir)
    return stopped


def _environment(info: PlatformInfo, extra: dict[str, str]) -> dict[str, str]:
    return child_environment({processes.MARK: info.id, **extra})


def _log(info: PlatformInfo, name: str) -> Path:
    return Path(info.data_dir) / "logs" / f"{name}.log"


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


@contextmanager
def _exclusive(data_dir: str) -> Iterator[None]:
    """One `up` or `down` at a time per data dir; the lock falls with the process."""
    folder = Path(data_dir) / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InFlight(f"another `fathom up` or `down` is at work on {data_dir}; wait for it") from None
        yield
