"""An experiment's whole life under load: start, promotion to another cross-encoder, rollback, MLflow away meanwhile.

    python -m benchmarks.promotion [--requests 6000] [--mlflow-away-s 300] [--documents 2000]

A platform of its own. Two clients ask without pause; the challenger's large cross-encoder is a registered model that
no process has loaded. MLflow's server is stopped (SIGSTOP: it takes connections and never answers, which is worse than
being gone) for part of the time. Prints one JSON document: requests that failed, seconds from a command until the last
answer of the old variant, answers without a variant, records that do not replay or are missing, what MLflow holds of
the time it was away once it is back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform as machine
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster import local
from cluster.bench import corpus
from cluster.bench.platform import UNLIMITED, Platform, Tenant
from jobs.tracking import run
from services.audit.reading import AuditReader
from services.audit.replay import replay
from services.control_plane import open_control_plane, operator_key
from services.models import SHIPPED
from services.reranking.checkpoint import complete_folder
from services.settings import Settings, load_settings
from tenants.database import Database

MODEL = "a-cross-encoder-of-the-bench"
CLIENTS, USERS, SEED = 2, 500, 3
RERANK = {"latency_budget_ms": 60, "max_depth": 10}
BACKLOG_S = 90.0


@dataclass
class Traffic:
    """What the clients saw: (began, variant, query id) of each answer, and what failed."""

    answers: list[tuple[float, str | None, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def sent(self) -> int:
        """Requests so far."""
        return len(self.answers) + len(self.failed)


async def ask(tenant: Tenant, texts: list[str], traffic: Traffic, first: int) -> None:
    """One client, until the end."""
    headers = {"Authorization": f"Bearer {tenant.key}"}
    async with httpx.AsyncClient(timeout=60, headers=headers) as client:
        number = first
        while not traffic.ended:
            body = {"query": f"{texts[number % len(texts)]} {number}", "user": f"u{number % USERS}"}
            began = time.monotonic()
            try:
                answer = await client.post(f"{tenant.base}/search", json=body)
            except httpx.HTTPError as error:
                traffic.failed.append(type(error).__name__)
            else:
                told = answer.json()
                if answer.status_code == httpx.codes.OK:
                    traffic.answers.append((began, told["variant"], told["query_id"]))
                else:
                    traffic.failed.append(f"{answer.status_code} {told.get('code')}")
            number += CLIENTS


@asynccontextmanager
async def load(tenant: Tenant, texts: list[str]) -> AsyncIterator[Traffic]:
    """Clients for the time of the block."""
    traffic = Traffic()
    clients = [asyncio.create_task(ask(tenant, texts, traffic, first)) for first in range(CLIENTS)]
    try:
        yield traffic
    finally:
        traffic.ended = True
        await asyncio.gather(*clients)


async def life(url: str, key: str, tenant: Tenant, options: argparse.Namespace, mlflow: int) -> dict[str, Any]:
    """Create → (MLflow away) → promote → roll back, a third of the requests each."""
    texts, part = corpus.questions(1_000, options.documents, SEED), options.requests // 4
    arms = [{"name": "control"}, {"name": "other", "overrides": {"rerankers": {"large": f"models:/{MODEL}/1"}}}]
    spec = {"name": "life", "tenants": [tenant.name], "arms": arms, "metric": "answer_ms", "window_s": 5, "ramp": 0.5}
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as admin:
        async with load(tenant, texts) as traffic:
            await _until(traffic, part)
            started = await _change(admin, "", spec, traffic)
            await _until(traffic, 2 * part)
            os.killpg(mlflow, signal.SIGSTOP)
            away = time.monotonic()
            try:
                await _until(traffic, 3 * part, options.mlflow_away_s)
                promoted = await _change(admin, "/life/promote", {"arm": "other"}, traffic)
                await _until(traffic, 3 * part + part // 2)
                back = await _change(admin, "/life/rollback", None, traffic)
                await _until(traffic, 4 * part)
            finally:
                os.killpg(mlflow, signal.SIGCONT)
            away_s = time.monotonic() - away
        told = await _backlog(admin)
    changes = {"create": started, "promote": promoted, "rollback": back}
    return {
        "requests": traffic.sent,
        "failed": len(traffic.failed),
        "failures": sorted(set(traffic.failed)),
        "seconds_until_served": {name: _seconds(traffic, at, name) for name, at in changes.items()},
        "variants": _counts(traffic),
        "mlflow_away_s": round(away_s, 1),
        "mlflow_after": told,
        "answers": traffic.answers,
    }


async def _change(admin: httpx.AsyncClient, path: str, body: Any, traffic: Traffic) -> float:
    at = time.monotonic()
    answer = await admin.post(f"/admin/v1/experiments{path}", json=body)
    answer.raise_for_status()
    return at


async def _until(traffic: Traffic, requests: int, seconds: float = 0.0) -> None:
    began = time.monotonic()
    while traffic.sent < requests or time.monotonic() - began < seconds:  # noqa: ASYNC110 - a count, no event
        await asyncio.sleep(0.05)


def _seconds(traffic: Traffic, at: float, change: str) -> float:
    """From the command to the last question that the variant before it answered."""
    gone = {"create": (), "promote": (None, "life/control"), "rollback": ("life/other",)}[change]
    late = [began for began, variant, _ in traffic.answers if began >= at and variant in gone]
    if change == "promote":  # what a rollback brings back is not late
        back = [began for began, variant, _ in traffic.answers if variant == "life/other"]
        late = [began for began in late if back and began < max(back)]
    return round(max(late, default=at) - at, 2)


def _counts(traffic: Traffic) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, variant, _ in traffic.answers:
        counts[str(variant)] = counts.get(str(variant), 0) + 1
    return counts


async def _backlog(admin: httpx.AsyncClient) -> dict[str, Any]:
    """What MLflow is told once it is back."""
    began = time.monotonic()
    while time.monotonic() - began < BACKLOG_S:
        shown = (await admin.get("/admin/v1/experiments/life")).json()
        if shown["run_id"]:
            break
        await asyncio.sleep(1)
    return {"run_id": shown["run_id"], "state": shown["state"], "outcome": shown["outcome"]["word"]}


def checked(settings: Settings, uid: str, answers: list[tuple[float, str | None, str]]) -> dict[str, int]:
    """Every answer's record: there, naming the same variant, replaying; and each exposure once."""
    reader = AuditReader(Database(settings.audit_url))
    records = {one["query_id"]: one for one in reader.export(uid) if one.get("state") == "complete"}
    wrong = {"missing": 0, "other_variant": 0, "not_replayed": 0, "without_a_name": 0}
    for _, variant, query_id in answers:
        record = records.get(query_id)
        if record is None:
            wrong["missing"] += 1
            continue
        told = record["variant"]["name"] if record["variant"] else None
        wrong["other_variant"] += told != variant
        wrong["without_a_name"] += told is None
        wrong["not_replayed"] += not replay(record).identical
    exposed = [row.query_id for row in reader.outcomes(uid, experiment="life")]
    named = sum(variant is not None and record_in(records, query_id) for _, variant, query_id in answers)
    return {**wrong, "exposures": len(exposed), "exposures_twice": len(exposed) - len(set(exposed)), "with_arm": named}


def record_in(records: dict[str, Any], query_id: str) -> bool:
    """Whether the answer was an exposure by its own record."""
    told = records.get(query_id, {}).get("variant") or {}
    return told.get("experiment") is not None


def told_to_mlflow(settings: Settings) -> dict[str, Any]:
    """Runs, aliases and points of the experiment, once the platform has caught up."""
    began = time.monotonic()
    store = open_control_plane(settings)
    while time.monotonic() - began < BACKLOG_S:
        tracked = store.get_experiment("life").tracked
        if tracked.get("ended") and tracked.get("serving") == "control":
            break
        time.sleep(1)
    store.close()
    return {
        "caught_up_s": round(time.monotonic() - began, 1),
        "ended": bool(tracked.get("ended")),
        "serving": tracked.get("serving"),
        "units": tracked.get("step"),
    }


def register(settings: Settings, folder: Path) -> None:
    """The shipped small model as a registered version that nobody has loaded."""
    whole = complete_folder(SHIPPED["builtin-small"], folder / "model")
    with run(settings, "fathom/training", {}) as tracked:
        tracked.register(whole, MODEL, "challenger")
    if not tracked.versions:
        raise SystemExit(f"MLflow did not take the model: {tracked.failure}")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start, index, ask, check, stop."""
    data_dir = str(folder / "data")
    settings = load_settings(data_dir=data_dir)
    info = local.up(settings)
    try:
        settings = settings.model_copy(update={"mlflow_tracking_uri": info.mlflow})
        register(settings, folder)
        bench = Platform(info.url, operator_key(settings), data_dir)
        tenant = bench.create("acme", {**UNLIMITED, "rerank": RERANK, "shadow_rate": 0})
        bench.index_documents("acme", list(corpus.documents(options.documents, SEED)))
        _note("indexed")
        seen = asyncio.run(life(info.url, operator_key(settings), tenant, options, _mlflow_group(info.ports.mlflow)))
        store = open_control_plane(settings)
        uid = store.get_tenant("acme").uid
        store.close()
        answers = seen.pop("answers")
        return {**seen, "records": checked(settings, uid, answers), "mlflow": told_to_mlflow(settings)}
    finally:
        local.down(data_dir)


def _mlflow_group(port: int) -> int:
    """The process group of the server that listens there."""
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid is not None:
            return os.getpgid(one.pid)
    raise SystemExit(f"nobody listens on {port}, where MLflow's server should")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--mlflow-away-s", type=float, default=300)
    parser.add_argument("--documents", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fathom-promotion-") as folder:
        report = measure(Path(folder), options)
    about = {"machine": machine.machine(), "cores": os.cpu_count(), "date": datetime.now(UTC).date().isoformat()}
    print(json.dumps({**report, **about}, indent=1))


if __name__ == "__main__":
    main()
