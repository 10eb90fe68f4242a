"""Kill an indexing job at random moments, resume it, and compare what is published with an uninterrupted run.

    python benchmarks/kill.py [--kills 50] [--documents 5000] [--seed 1] [--inline]

Each attempt runs the job (builtin embedder, Ray Data chain on a cluster of its own; `--inline`: in one process) in
a child. At random moments a `kill -9` hits the driver, a worker (parsing, chunking, embedding) or a writer; a killed
driver is started again with the same job id. Runs are repeated, each with another tenant, until the kills are done.
Prints one JSON document; exit code 1 when a document is lost, repeated or different.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from jobs.indexing import pipeline
from jobs.indexing.driver import run_job
from jobs.indexing.job import IndexJob
from jobs.indexing.stages import LineContext, load_embed, run_inline
from jobs.indexing.write import written_shards
from jobs.maintenance.verify import verify
from services.control_plane import open_control_plane
from services.settings import Settings, load_settings
from tenants.config import TenantConfig
from tenants.corpus.objects import open_objects
from tenants.errors import NotFound
from tenants.ids import job_id, tenant_name
from tenants.scope import TenantScope

WORDS = ("whale", "river", "rain", "harbour", "engine", "market", "copper", "garden", "winter", "signal", "letter")
WRITER = "_write"
KINDS = ("driver", "worker", "writer")


@dataclass
class Tally:
    """What was done and seen."""

    kills: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    runs: int = 0
    redone_shards: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    options = _parser().parse_args()
    if options.child:
        return _child(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="fathom-kill-") as folder:
        return _bench(options, Path(folder))


def _bench(options: argparse.Namespace, folder: Path) -> int:
    source = write_source(folder / "documents.jsonl", options.documents)
    started = time.time()
    clean = _clean_run(options, folder, source)
    chance, tally = random.Random(options.seed), Tally()
    while sum(tally.kills.values()) < options.kills:
        tenant = f"killed-{tally.runs}"
        _killed_run(options, folder, source, tenant, chance, tally, clean["seconds"])
        found = _report(folder, tenant)
        if (found.documents, found.content) != (clean["documents"], clean["content"]):
            tally.wrong.append(tenant)
        tally.runs += 1
    document = {
        "kills": dict(tally.kills),
        "attempts": tally.attempts,
        "runs": tally.runs,
        "documents": options.documents,
        "content_equal_to_uninterrupted": not tally.wrong,
        "most_shards_redone_by_a_resume": max(tally.redone_shards, default=0) if options.inline else None,
        "seconds": round(time.time() - started),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(json.dumps(document))
    return 1 if tally.wrong else 0


def write_source(path: Path, documents: int) -> Path:
    """`documents` short ones, the same at every run."""
    chance = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(documents):
            text = " ".join(chance.choice(WORDS) for _ in range(12)) + f" number {number}."
            stream.write(json.dumps({"_id": f"d{number}", "text": text}) + "\n")
    return path


def _clean_run(options: argparse.Namespace, folder: Path, source: Path) -> dict[str, Any]:
    began = time.monotonic()
    process = _start(options, folder, source, "clean")
    if process.wait() != 0:
        raise SystemExit(f"the uninterrupted run failed: {(folder / 'child.log').read_text()[-2000:]}")
    report = _report(folder, "clean")
    return {"documents": report.documents, "content": report.content, "seconds": time.monotonic() - began}


def _killed_run(
    options: argparse.Namespace,
    folder: Path,
    source: Path,
    tenant: str,
    chance: random.Random,
    tally: Tally,
    clean_s: float,
) -> None:
    """Run one job to its end through kills; a run stops being killed when the wanted number is reached."""
    while True:
        process = _start(options, folder, source, tenant)
        atexit.register(_end_children, process)
        tally.attempts += 1
        lost = _lost(folder, tenant)
        while process.poll() is None and sum(tally.kills.values()) < options.kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(
                    chance.uniform(0.02, 0.9) * clean_s if options.inline else chance.uniform(1.0, 0.3 * clean_s)
                )
                break
            kind = "driver" if options.inline else chance.choice(KINDS)
            if _kill(process, kind):
                tally.kills[kind] += 1
        code = process.wait()
        _end_children(process)
        if code == 0:
            return
        tally.redone_shards.append(_lost(folder, tenant) - lost)


def _kill(process: subprocess.Popen[bytes], kind: str) -> bool:
    if kind == "driver":
        process.kill()
        process.wait()
        return True
    victims = [child for child in _children(process) if _is_kind(child, kind)]
    if not victims:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        random.choice(victims).kill()
        return True
    return False


def _is_kind(process: psutil.Process, kind: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        title = " ".join(process.cmdline())
        is_work = title.startswith("ray::") and ("Map" in title or "map" in title)
        return is_work and ((WRITER in title) == (kind == "writer"))
    return False


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(process.pid).children(recursive=True))
    return []


def _end_children(process: subprocess.Popen[bytes]) -> None:
    """A killed driver's own cluster follows it; its session id finds what is slow to."""
    for found in psutil.process_iter(["pid"]):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(found.pid) == process.pid:
                found.kill()


def _start(options: argparse.Namespace, folder: Path, source: Path, tenant: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--child", tenant, "--folder", str(folder), "--source", str(source)]
    with (folder / "child.log").open("ab") as log:
        return subprocess.Popen(
            [*command, *(["--inline"] if options.inline else [])],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )


def _child(options: argparse.Namespace) -> int:
    settings = _settings(Path(options.folder))
    store = open_control_plane(settings)
    scope = _scope(settings, options.child, create=True)
    job = IndexJob(job_id(f"job-{options.child}"), (options.source,))

    def process(shards: Any, context: LineContext) -> Any:
        if not options.inline:
            return pipeline.index_line(shards, context, settings)
        embed = load_embed(context)
        log = (Path(options.folder) / f"embedded-{options.child}").open("ab", buffering=0)

        def logged(table: pa.Table) -> pa.Table:
            embedded = embed(table)
            log.write(b".")
            return embedded

        return run_inline(shards, context, logged)

    run_job(job, scope, store, settings, process)
    store.close()
    return 0


def _settings(folder: Path) -> Settings:
    return load_settings(data_dir=str(folder / "data"), mlflow_tracking_uri="off")


def _scope(settings: Settings, name: str, *, create: bool = False) -> TenantScope:
    store = open_control_plane(settings)
    try:
        tenant = store.get_tenant(tenant_name(name))
    except NotFound:
        if not create:
            raise
        tenant = store.create_tenant(tenant_name(name), TenantConfig())
    finally:
        store.close()
    return TenantScope(tenant.name, tenant.uid, tenant.config, settings.root)


def _written(folder: Path, tenant: str) -> set[int]:
    try:
        scope = _scope(_settings(folder), tenant)
    except NotFound:
        return set()
    return written_shards(open_objects(scope.base), f"jobs/job-{tenant}")


def _lost(folder: Path, tenant: str) -> int:
    """Shards that were embedded, in all attempts so far, and have no receipt: what resumes did or will do again."""
    log = folder / f"embedded-{tenant}"
    embedded = len(log.read_bytes()) if log.exists() else 0
    return max(0, embedded - len(_written(folder, tenant)))


def _report(folder: Path, tenant: str) -> Any:
    return verify(_scope(_settings(folder), tenant))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--documents", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inline", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
