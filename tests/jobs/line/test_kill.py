"""`kill -9` at the worst moments: the resumed job publishes exactly what an uninterrupted one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from jobs.maintenance.verify import verify
from tenants.corpus import release as releases

# Kills its own process at the named moment, counted from 1; "" runs to the end.
CHILD = """
import os, signal, sys
from importlib.util import module_from_spec, spec_from_file_location
from jobs.indexing import commit, driver, write
from jobs.indexing.job import IndexJob
from jobs.indexing.stages import run_inline
from services.settings import Settings
from tenants.corpus import release
from tenants.scope import TenantScope
from tenants.store import open_store

data_dir, source, moment, hashing = sys.argv[1:5]
spec = spec_from_file_location("hashing", hashing)
module = module_from_spec(spec)
spec.loader.exec_module(module)

def dies(owner, name, when, nth=1):
    real, calls = getattr(owner, name), []
    def wrapped(*arguments, **options):
        calls.append(1)
        if len(calls) == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        value = real(*arguments, **options)
        if len(calls) == nth and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return value
    setattr(owner, name, wrapped)

MOMENTS = {
    "planning": (driver, "make_plan", "before"),
    "fragment": (write, "write_fragments", "after", 2),
    "receipt": (write, "receipt_to_json", "after", 3),
    "commit": (commit, "replace_documents", "after"),
    "indices": (commit, "refresh", "after"),
    "log": (release, "_point", "before", 3),
    "published": (commit, "_trim_history", "before"),
}
if moment:
    dies(*MOMENTS[moment])
settings = Settings(data_dir=data_dir, mlflow_tracking_uri="off")
store = open_store(settings.control_url, pepper=b"0" * 32)
tenant = store.get_tenant("acme")
scope = TenantScope(tenant.name, tenant.uid, tenant.config, settings.root)
embed = module.HashEmbed()
job = IndexJob("job-kill", (source,))
driver.run_job(job, scope, store, settings, lambda shards, context: run_inline(shards, context, embed))
print(embed.calls)
"""
MOMENTS = ("planning", "fragment", "receipt", "commit", "indices", "published")


def run_child(bench, source: Path, moment: str) -> subprocess.CompletedProcess[str]:
    hashing = str(Path(__file__).with_name("hashing.py"))
    return subprocess.run(
        [sys.executable, "-c", CHILD, bench.settings.data_dir, str(source), moment, hashing],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_job_killed_again_and_again_ends_as_if_nothing_had_happened(bench):
    texts = {f"d{number}": f"text of document number {number}" for number in range(1_000)}
    source = bench.write("a.jsonl", texts)
    written = []
    for moment in MOMENTS:
        result = run_child(bench, source, moment)
        assert result.returncode == -signal.SIGKILL, (moment, result.stderr[-2000:])
        receipts = Path(bench.scope.base) / "jobs" / "job-kill" / "receipts"
        written.append(len(list(receipts.glob("0*.json"))) if receipts.exists() else 0)
    assert written == [0, 1, 3, 4, 4, 4]
    last = run_child(bench, source, "")
    assert last.returncode == 0, last.stderr[-2000:]
    assert last.stdout.split() == ["0"], "the last resume embeds nothing"
    assert bench.texts() == texts
    report = verify(bench.scope)
    assert (report.documents, report.chunks) == (1_000, 1_000)
    assert bench.store.get_job(bench.scope, "job-kill").state == "succeeded"
    assert releases.current(bench.scope).version == 1


def test_death_between_log_and_pointer_keeps_one_version(bench):
    source = bench.write("a.jsonl", {"x": "text"})
    assert run_child(bench, source, "log").returncode == -signal.SIGKILL
    assert releases.current(bench.scope) is None
    assert run_child(bench, source, "").returncode == 0
    assert bench.texts() == {"x": "text"}
    assert [release.version for release in releases.list_releases(bench.scope)] == [1]
