"""Kill an indexing job at random moments, resume it, and compare what is published with an uninterrupted run.

    python benchmarks/kill.py [--kills 51] [--documents 5000] [--inline] [--address RAY] [--folder DIR --minutes 4]

Each attempt runs the job (builtin embedder, Ray Data chain on a cluster that outlives it; `--inline`: in one process)
in a child. After a random number of shards and a random moment more, a `kill -9` hits the driver, a worker (parsing,
chunking, embedding) or a writer while it writes; a killed driver is started again with the same job id, at once,
beside what the dead one left running. A run takes `PER_RUN` kills and then ends; runs are repeated, each with another
tenant, until the kills are done. With `--folder` a call ends after `--minutes` by killing the driver, and the next
one goes on and sums up. Prints one JSON document; exit code 1 when a document is lost, repeated or different, 3 when
kills are left for the next call.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from cluster import processes
from jobs.indexing import pipeline, stages
from jobs.indexing.driver import run_job
from jobs.indexing.job import IndexJob, Receipt
from jobs.maintenance.verify import Report, verify
from services.control_plane import open_control_plane
from services.settings import Settings, load_settings
from tenants.config import TenantConfig
from tenants.errors import NotFound
from tenants.ids import job_id, tenant_name
from tenants.scope import TenantScope

WORDS = ("whale", "river", "rain", "harbour", "engine", "market", "copper", "garden", "winter", "signal", "letter")
KINDS = ("driver", "worker", "writer")
PER_RUN = 9
SHARDS_BETWEEN = 4  # kills, at most, as long as the time between them allows
LOG = "FATHOM_KILL_LOG"  # names the file that an attempt's encoders note their shards in
WRITING = "writing-"  # and a process id: names the note of a process that writes a shard
POLL_S = 0.02
START_ATTEMPTS = 5
NOT_DONE = 3


@dataclass
class Tally:
    """What was done and seen, over all calls.

    `repeated`: shards that one resumed attempt embedded once more. `gave_up`: attempts that failed though their driver
    was not killed.
    """

    kills: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    runs: int = 0
    repeated: list[int] = field(default_factory=list)
    gave_up: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    clean: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Tally:
        """As `save` left it; a new one where there is none."""
        value = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return cls(**{**value, "kills": Counter(value.get("kills", {}))})

    def save(self, path: Path) -> None:
        """Keep it for the next call."""
        path.write_text(json.dumps(vars(self)), "utf-8")


@dataclass
class Bench:
    """One call's way to the folder that all calls share."""

    options: argparse.Namespace
    folder: Path
    tally: Tally
    chance: random.Random
    until: float
    cluster: str = ""
    mark: str = f"kill-{os.getpid()}"

    @property
    def source(self) -> Path:
        """The documents."""
        return self.folder / "documents.jsonl"

    def wanted(self) -> int:
        """Kills that are still to be done."""
        return int(self.options.kills) - self.tally.kills.total()


def main() -> int:
    options = _parser().parse_args()
    if options.child:
        return _child(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="fathom-kill-") as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(exist_ok=True)
        tally = Tally.load(folder / "tally.json")
        chance = random.Random(f"{options.seed} {tally.attempts}")
        bench = Bench(options, folder, tally, chance, time.monotonic() + 60 * options.minutes)
        os.environ[processes.MARK] = bench.mark
        if not options.inline:
            bench.cluster = options.address or _start_cluster()
        try:
            return _bench(bench)
        finally:
            ray.shutdown()
            processes.stop(bench.mark, grace_s=1)


def _start_cluster() -> str:
    """Ray on this machine until this process ends; gives its address."""
    for _ in range(START_ATTEMPTS):
        try:
            context = ray.init(include_dashboard=False, log_to_driver=False, logging_level="WARNING")
            return str(context.address_info["gcs_address"])
        except Exception as error:  # noqa: BLE001 - Ray gives a busy machine 30 s, and raises nothing narrower
            print(f"Ray did not start: {error}", file=sys.stderr)
            ray.shutdown()
    raise SystemExit("Ray does not start on this machine")


def _bench(bench: Bench) -> int:
    began, tally = time.monotonic(), bench.tally
    if not tally.clean:
        write_source(bench.source, texts(bench.options.documents))
        tally.clean = _clean_run(bench)
    while bench.wanted() > 0 and time.monotonic() < bench.until:
        tenant = f"killed-{tally.runs}"
        if not _killed_run(bench, tenant):
            break
        found = _report(bench.folder, tenant)
        if (found.documents, found.content) != (tally.clean["documents"], tally.clean["content"]):
            tally.wrong.append(tenant)
        tally.runs += 1
        tally.save(bench.folder / "tally.json")
    tally.seconds += time.monotonic() - began
    tally.save(bench.folder / "tally.json")
    print(json.dumps(_document(bench), indent=2))
    return 1 if tally.wrong else NOT_DONE if bench.wanted() > 0 else 0


def _document(bench: Bench) -> dict[str, Any]:
    tally = bench.tally
    return {
        "kills": {"total": tally.kills.total(), **tally.kills},
        "attempts": tally.attempts,
        "attempts_that_failed_by_themselves": tally.gave_up,
        "runs": tally.runs,
        "documents": bench.options.documents,
        "runs_that_differ_from_an_uninterrupted_one": len(tally.wrong),
        "shards": tally.clean["shards"],
        "most_shards_embedded_again_by_a_resume": max(tally.repeated, default=0),
        "shards_embedded_again_in_all": sum(tally.repeated),
        "line": "inline" if bench.options.inline else "ray",
        "seconds": round(tally.seconds),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def texts(documents: int) -> dict[str, str]:
    """{id: text} of `documents` short ones, the same at every run."""
    chance = random.Random(0)
    return {f"d{n}": " ".join(chance.choice(WORDS) for _ in range(12)) + f" number {n}." for n in range(documents)}


def write_source(path: Path, documents: Mapping[str, str]) -> None:
    """One JSONL document a text."""
    lines = (json.dumps({"_id": name, "text": text}) + "\n" for name, text in documents.items())
    path.write_text("".join(lines), "utf-8")


def _clean_run(bench: Bench) -> dict[str, Any]:
    began = time.monotonic()
    process, log = _start(bench, "clean")
    if process.wait() != 0:
        raise SystemExit(f"the uninterrupted run failed: {(bench.folder / 'child.log').read_text()[-2000:]}")
    report = _report(bench.folder, "clean")
    seconds = time.monotonic() - began
    return {"documents": report.documents, "content": report.content, "seconds": seconds, "shards": len(_shards(log))}


def _killed_run(bench: Bench, tenant: str) -> bool:
    """Run one job to its end through kills; whether it came to its end before the call's time was over.

    The one that is over is killed as well, and the next call resumes it.
    """
    left, known = min(PER_RUN, bench.wanted()), _known_shards(bench, tenant)
    while True:
        process, log = _start(bench, tenant)
        left = _attempt(bench, process, log, left)
        code = process.wait()
        shards = _shards(log)
        bench.tally.repeated.append(len([shard for shard in shards if shard in known]))
        known |= set(shards)
        bench.tally.gave_up += code not in (0, -signal.SIGKILL)
        if code == 0 or time.monotonic() > bench.until:
            return code == 0


def _attempt(bench: Bench, process: subprocess.Popen[bytes], log: Path, left: int) -> int:
    """Kill parts of one attempt until its driver is gone; gives the kills that are left for the run."""
    while left > 0 and process.poll() is None:
        kind = "driver" if bench.options.inline else bench.chance.choice(KINDS)
        if _ends_before(process, log, bench):
            break
        killed = _kill(process, bench, kind)
        if not killed:
            break
        bench.tally.kills[killed] += 1
        left -= 1
        if killed == "driver":
            process.wait()
    return left


def _ends_before(process: subprocess.Popen[bytes], log: Path, bench: Bench) -> bool:
    """Wait for the moment of a kill; whether the driver ended before."""
    per_shard = bench.tally.clean["seconds"] / bench.tally.clean["shards"]
    target = len(_shards(log)) + bench.chance.randint(0, SHARDS_BETWEEN)
    latest = min(bench.until, time.monotonic() + bench.tally.clean["seconds"])
    while len(_shards(log)) < target and time.monotonic() < latest:
        if _ends_within(process, POLL_S):
            return True
    return _ends_within(process, min(bench.chance.uniform(0, 2 * per_shard), bench.until - time.monotonic()))


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(process: subprocess.Popen[bytes], bench: Bench, kind: str) -> str:
    """Kill one of that kind as soon as there is one, the driver when the call's time is over; what was killed.

    "" when the driver ended before.
    """
    while process.poll() is None:
        kind = kind if time.monotonic() < bench.until else "driver"
        victim = process.pid if kind == "driver" else _victim(bench.folder, kind)
        if victim:
            os.kill(victim, signal.SIGKILL)
            return kind
        time.sleep(POLL_S)
    return ""


def _victim(folder: Path, kind: str) -> int | None:
    """A process that works on a stage of ours now: Ray names it after its task, a writer leaves a note."""
    writing = {path.name.removeprefix(WRITING).split("-")[0] for path in folder.glob(f"{WRITING}*")}
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_bytes()
            works = entry.name in writing if kind == "writer" else title.startswith(b"ray::Map")
            if works and f"{LOG}={folder}/".encode() in (entry / "environ").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    return None


def _start(bench: Bench, tenant: str) -> tuple[subprocess.Popen[bytes], Path]:
    """The driver, and the log that its encoders leave."""
    bench.tally.attempts += 1
    log = bench.folder / f"embedded-{tenant}-{bench.tally.attempts}"
    command = [sys.executable, __file__, "--child", tenant, "--folder", str(bench.folder), "--cluster", bench.cluster]
    flags = ["--inline"] if bench.options.inline else []
    paths = {"PYTHONPATH": str(Path(__file__).parents[1]), LOG: str(log)}
    with (bench.folder / "child.log").open("ab") as output:
        process = subprocess.Popen(
            [*command, *flags], stdout=output, stderr=output, start_new_session=True, env={**os.environ, **paths}
        )
    return process, log


def _shards(log: Path) -> list[int]:
    return [int(line) for line in log.read_text("utf-8").split()] if log.exists() else []


def _known_shards(bench: Bench, tenant: str) -> set[int]:
    return {shard for log in bench.folder.glob(f"embedded-{tenant}-*") for shard in _shards(log)}


def _child(options: argparse.Namespace) -> int:
    folder = Path(options.folder)
    settings = _settings(folder)
    store = open_control_plane(settings)
    scope = _scope(settings, options.child, create=True)
    job = IndexJob(job_id(f"job-{options.child}"), (str(folder / "documents.jsonl"),))
    _note_shards()
    if options.inline:
        run_job(job, scope, store, settings, stages.run_inline)
    else:
        environment = {"worker_process_setup_hook": _note_shards, "env_vars": {LOG: os.environ[LOG]}}
        ray.init(options.cluster, log_to_driver=False, logging_level="WARNING", runtime_env=environment)
        run_job(job, scope, store, settings, lambda shards, context: pipeline.index_line(shards, context, settings))
    store.close()
    return 0


def _note_shards() -> None:
    """Each embedded shard leaves a line in the attempt's log: what a resume embeds once more is counted from it.

    A process that writes a shard leaves a file by its number as long as it does.
    """
    real, write = stages.embed_parcel, stages.write_parcel

    def noted(parcel: stages.Parcel, embed: Any) -> stages.Parcel:
        embedded = real(parcel, embed)
        with Path(os.environ[LOG]).open("a") as log:
            log.write(f"{parcel.shard}\n")
        return embedded

    def noted_write(parcel: stages.Parcel, context: stages.LineContext) -> Receipt:
        note = Path(os.environ[LOG]).with_name(f"{WRITING}{os.getpid()}-{parcel.shard}")
        note.touch()
        try:
            return write(parcel, context)
        finally:
            note.unlink(missing_ok=True)

    stages.embed_parcel, stages.write_parcel = noted, noted_write


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


def _report(folder: Path, tenant: str) -> Report:
    return verify(_scope(_settings(folder), tenant))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=51)
    parser.add_argument("--documents", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inline", action="store_true", help="in one process: only drivers are killed")
    parser.add_argument("--address", help="of a running Ray cluster, which is left as it is; default: one of its own")
    parser.add_argument("--folder", help="keeps the state between calls")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which a call ends")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--cluster", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
