"""What writing keeps and what it costs: failing storage, writers at once, an unchanged and a hardly changed corpus.

    python -m benchmarks.writes [--documents 10000] [--errors 0.2] [--writers 8]

Four parts with the built-in embedder, in one process and a folder of its own: a job whose writes of fragments fail
(half of them before, half after the file was written); writers of small batches with overlapping ids; the same corpus
once more; the corpus with 1 % of its documents changed. Prints one JSON document; exit code 1 when a row is missing,
repeated or different, or an unchanged document was embedded.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
from lance.fragment import write_fragments

from benchmarks.kill import texts, write_source
from jobs.indexing import stages, write
from jobs.indexing.batches import BatchWriter
from jobs.indexing.driver import run_job
from jobs.indexing.job import IndexJob, JobResult
from services.control_plane import open_control_plane
from services.settings import Settings, load_settings
from tenants.config import TenantConfig
from tenants.corpus import release as releases
from tenants.corpus.table import open_release
from tenants.ids import new_job_id, tenant_name
from tenants.scope import TenantScope
from tenants.store import Store

CHANGED, MOST = 0.01, 0.015  # of the documents are changed; of the embedding may be done again
TURNS = 3
SHARED, OWN = 20, 20  # documents of a batch that every writer writes, and that only one does

Embedder = Callable[[pa.Table], pa.Table]


@dataclass
class Bench:
    """A folder, its store, and an embedder that counts its rows."""

    settings: Settings
    store: Store
    folder: Path
    embedder: Embedder | None = None
    rows: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, context: stages.LineContext) -> Embedder:
        """The one embedder of this process."""
        with self.lock:
            self.embedder = self.embedder or stages.load_embed(context)
        return self.embed

    def embed(self, table: pa.Table) -> pa.Table:
        """Embed and count."""
        with self.lock:
            self.rows += table.num_rows
            assert self.embedder is not None
            return self.embedder(table)

    def tenant(self, name: str) -> TenantScope:
        """A new one."""
        row = self.store.create_tenant(tenant_name(name), TenantConfig())
        return TenantScope(row.name, row.uid, row.config, self.settings.root)

    def index(self, scope: TenantScope, documents: dict[str, str]) -> JobResult:
        """Publish exactly `documents`, {id: text}."""
        source = self.folder / f"{scope.tenant}.jsonl"
        write_source(source, documents)

        def process(shards: Any, context: stages.LineContext) -> Any:
            return stages.run_inline(shards, context, self.load(context))

        return run_job(IndexJob(new_job_id(), (str(source),)), scope, self.store, self.settings, process)


def main() -> int:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="fathom-writes-") as folder:
        settings = load_settings(data_dir=f"{folder}/data", mlflow_tracking_uri="off")
        store = open_control_plane(settings)
        try:
            report = _measure(Bench(settings, store, Path(folder)), options)
        finally:
            store.close()
    print(json.dumps(report, indent=2))
    return 0 if report["right"] else 1


def _measure(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    parts = {
        "failing_writes": _failing(bench, options.documents, options.errors),
        "writers": _writers(bench, options.writers),
        "again": _again(bench, options.documents),
    }
    return {
        **parts,
        "right": all(part["right"] for part in parts.values()),
        "documents": options.documents,
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _failing(bench: Bench, documents: int, share: float) -> dict[str, Any]:
    scope, corpus = bench.tenant("failing"), texts(documents)
    with _faults(share) as failed:
        bench.index(scope, corpus)
    found = _published(scope)
    return {
        "writes": len(failed),
        "failed": sum(failed),
        "rows": found.num_rows,
        "missing": len(corpus.keys() - set(found["document_id"].to_pylist())),
        "right": _holds(found, corpus),
    }


@contextmanager
def _faults(share: float) -> Iterator[list[bool]]:
    """Lance's own function fails that share of times, before or after its file is there; gives what was done."""
    chance, done = random.Random(7), list[bool]()

    def flaky(*arguments: Any, **named: Any) -> Any:
        roll = chance.random()
        done.append(roll < share)
        if roll < share / 2:
            raise OSError("injected before the write")
        fragments = write_fragments(*arguments, **named)
        if roll < share:
            raise OSError("injected after the write")
        return fragments

    with patch.object(write, "write_fragments", flaky):
        yield done


def _writers(bench: Bench, count: int) -> dict[str, Any]:
    scope = bench.tenant("writers")
    writer = BatchWriter(bench.settings, bench.store, bench.load)
    failures: list[str] = []

    def work(number: int) -> None:
        for turn in range(TURNS):
            shared = {f"shared-{key}": f"turn {turn} of writer {number} on {key}" for key in range(SHARED)}
            own = {f"own-{number}-{key}": f"turn {turn} of writer {number}" for key in range(OWN)}
            try:
                batch = [{"id": name, "text": text} for name, text in {**shared, **own}.items()]
                writer.index_documents(scope, batch, timeout_s=600)
            except Exception as error:  # noqa: BLE001 - whatever a writer meets is the finding
                failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = _published(scope)
    names, said = found["document_id"].to_pylist(), found["text"].to_pylist()
    last = all(text.startswith(f"turn {TURNS - 1} ") for text in said)
    return {
        "writers": count,
        "batches": count * TURNS,
        "failed": failures,
        "documents": len(set(names)),
        "repeated": len(names) - len(set(names)),
        "right": not failures and last and len(names) == len(set(names)) == SHARED + count * OWN,
    }


def _again(bench: Bench, documents: int) -> dict[str, Any]:
    scope, first = bench.tenant("again"), texts(documents)
    chosen = random.Random(1).sample(sorted(first), round(documents * CHANGED))
    changed = {**first, **{name: first[name] + " Changed." for name in chosen}}
    embedded, seconds = [], []
    for corpus in (first, first, changed):
        before = bench.rows
        seconds.append(round(bench.index(scope, corpus).seconds, 2))
        embedded.append(bench.rows - before)
    share = embedded[2] / embedded[0]
    return {
        "embedded_first_unchanged_changed": embedded,
        "seconds_first_unchanged_changed": seconds,
        "share_of_the_embedding": round(share, 4),
        "right": embedded[1] == 0 and share <= MOST and _holds(_published(scope), changed),
    }


def _published(scope: TenantScope) -> pa.Table:
    release = releases.current(scope)
    assert release is not None
    return open_release(scope, release).to_table(["document_id", "text"])


def _holds(found: pa.Table, texts: dict[str, str]) -> bool:
    """Each document is one chunk and has its text."""
    rows = zip(found["document_id"].to_pylist(), found["text"].to_pylist(), strict=True)
    return found.num_rows == len(texts) and dict(rows) == texts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--errors", type=float, default=0.2, help="share of writes that fail")
    parser.add_argument("--writers", type=int, default=8)
    return parser


if __name__ == "__main__":
    sys.exit(main())
