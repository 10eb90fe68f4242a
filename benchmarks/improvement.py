"""The loop end to end: simulated users click, a reranker learns from it, is tried on other users, and is promoted.

    python -m benchmarks.improvement --data FOLDER/vespa_docs --champion MODEL [--documents 0] [--budget-minutes 8]

A platform of its own serves a real labelled corpus; the champion's large cross-encoder, `--champion`, was not trained
on it. Users look through the first ten passages of each answer (position r with probability 1 / r^0.5) and click what
the gold labels call relevant (.9), or by mistake (.05). `fathom ab improve` is then called as a scheduler would, with
other users asking in between, until it says that the round is over. Then a challenger that is bad on purpose is
put beside the champion, to see the guardrail. nDCG@10 is that of questions of the dev split that no user asked, over
HTTP, before and after. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import platform as machine
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from cluster import local
from cluster.bench.platform import UNLIMITED, Platform, Tenant
from jobs.evaluation.datasets import Dataset, load_dataset
from jobs.evaluation.metrics import mean
from services.control_plane import operator_key
from services.settings import Settings, load_settings

NAME = "acme"
TOP, ETA, RELEVANT, MISTAKEN = 10, 0.5, 0.9, 0.05
CLIENTS = 2
ROUND_S = 3_000.0


@dataclass
class Users:
    """People with questions; each asks one. `platform` and `tenant` are who they ask."""

    tenant: Tenant
    data: Dataset
    names: Iterator[str]
    rng: random.Random
    asked: int = 0
    failed: int = 0
    clicks: int = 0

    def ask(self, count: int) -> None:
        """So many of them, `CLIENTS` at a time."""
        asyncio.run(self._ask(count))

    async def _ask(self, count: int) -> None:
        todo = [name for _, name in zip(range(count), self.names, strict=False)]
        headers = {"Authorization": f"Bearer {self.tenant.key}"}
        async with httpx.AsyncClient(timeout=120, headers=headers) as client:
            await asyncio.gather(*(self._some(client, todo[first::CLIENTS]) for first in range(CLIENTS)))

    async def _some(self, client: httpx.AsyncClient, names: Sequence[str]) -> None:
        for name in names:
            self.asked += 1
            body = {"query": self.data.queries[name], "user": f"{name}-{self.asked}", "top_k": TOP}
            answer = await client.post(f"{self.tenant.base}/search", json=body)
            if answer.status_code != httpx.codes.OK:
                self.failed += 1
                continue
            told = answer.json()
            clicked = self.clicked(name, told["results"])
            if clicked:
                self.clicks += 1
                heard = {"query_id": told["query_id"], "clicked": clicked}
                await client.post(f"{self.tenant.base}/feedback", json=heard)

    def clicked(self, name: str, results: Sequence[dict[str, Any]]) -> list[str]:
        """Chunk ids: seen with 1 / rank^ETA, clicked when relevant, or by mistake."""
        grades = self.data.judgements[name]
        found = []
        for hit in results:
            likes = RELEVANT if grades.get(hit["document_id"], 0) > 0 else MISTAKEN
            if self.rng.random() < likes / hit["rank"] ** ETA:
                found.append(hit["chunk_id"])
        return found


def ndcg(tenant: Tenant, data: Dataset, names: Sequence[str]) -> float:
    """nDCG@10 by documents of what the tenant's users get now."""
    run = {}
    with httpx.Client(timeout=120, headers={"Authorization": f"Bearer {tenant.key}"}) as client:
        for name in names:
            body = {"query": data.queries[name], "top_k": TOP, "group_by": "document", "user": f"dev-{name}"}
            told = client.post(f"{tenant.base}/search", json=body).raise_for_status().json()
            run[name] = {hit["document_id"]: -float(hit["rank"]) for hit in told["results"]}
    return mean(run, {name: data.judgements[name] for name in names}, "ndcg", TOP)


def a_round(users: Users, options: argparse.Namespace, data_dir: str, work: Path) -> list[dict[str, Any]]:
    """Call the job as a scheduler would, users asking between two calls; every pass's document."""
    command = [sys.executable, "-m", "cluster.cli", "ab", "improve", NAME, "--json", "--data-dir", data_dir]
    command += ["--work", str(work), "--budget-minutes", str(options.budget_minutes), "--frozen-layers", "2"]
    command += ["--feedback", str(options.feedback // 2), "--window", "0.5", "--minimum-effect", "0.05"]
    command += ["--certify-on", str(options.certify_on), "--guardrail", "answer_ms=1.0"]
    passes, began = [], time.monotonic()
    while time.monotonic() - began < ROUND_S:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        step = json.loads(done.stdout)
        passes.append({"after_s": round(time.monotonic() - began, 1), "asked": users.asked, **step})
        note(json.dumps({name: step.get(name) for name in ("stage", "reason", "error")}))
        if step.get("done", True):
            break
        users.ask(options.between)
    return passes


def bad_challenger(users: Users, admin: httpx.Client, options: argparse.Namespace) -> dict[str, Any]:
    """Lists in an order that no one wants, beside the champion: how many users meet it before it is stopped."""
    bad = {"fusion": {"weight": 0.0}, "rerank": {"policy": "never"}, "rerankers": {"large": "builtin-small"}}
    spec = {"name": "bad", "tenants": [NAME], "metric": "click_rank", "window_s": 0.5, "minimum_effect": 0.05}
    spec["arms"] = [{"name": "control"}, {"name": "bad", "overrides": bad}]
    admin.post("/admin/v1/experiments", json=spec).raise_for_status()
    began, first = time.monotonic(), users.asked
    while time.monotonic() - began < ROUND_S / 3:
        users.ask(options.between)
        shown = admin.get("/admin/v1/experiments/bad").json()
        if shown["state"] != "running":
            break
    told = shown["outcome"] or {}
    return {
        "stopped": shown["state"] != "running",
        "by": told.get("by"),
        "word": told.get("word"),
        "users": users.asked - first,
        "reason": shown["analysis"]["verdict"]["reason"],
    }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start, index, click, improve, measure again, stop."""
    asked = load_dataset(options.data / "queries.jsonl.gz", options.data / "qrels" / "train.tsv")
    unseen = load_dataset(options.data / "queries.jsonl.gz", options.data / "qrels" / "dev.tsv")
    data_dir = str(folder / "data")
    settings = load_settings(data_dir=data_dir)
    info = local.up(settings)
    try:
        bench = Platform(info.url, operator_key(settings), data_dir)
        config = {**UNLIMITED, "rerankers": {"large": str(options.champion)}, "shadow_rate": 0}
        tenant = bench.create(NAME, config)
        corpus, held = part_of(options, folder, asked, unseen)
        note(f"indexed {bench.index(NAME, corpus)['chunks']} chunks")
        names = sorted(held["train"])
        random.Random(1).shuffle(names)
        dev = sorted(held["dev"])
        random.Random(2).shuffle(dev)
        dev = dev[: options.unseen]
        users = Users(tenant, asked, iter(names * 20), random.Random(3))
        before = ndcg(tenant, unseen, dev)
        note(f"before: nDCG@10 {before:.4f}")
        users.ask(options.feedback)
        passes = a_round(users, options, data_dir, folder / "training")
        after = ndcg(tenant, unseen, dev)
        note(f"after: nDCG@10 {after:.4f}")
        with httpx.Client(base_url=info.url, headers=_operator(settings), timeout=120) as admin:
            bad = bad_challenger(users, admin, options)
    finally:
        local.down(data_dir)
    return {
        "ndcg@10_before": round(before, 4),
        "ndcg@10_after": round(after, 4),
        "gain": round(after - before, 4),
        "unseen_questions": len(dev),
        "users": {"asked": users.asked, "clicked": users.clicks, "failed": users.failed},
        "passes": [passes[0], *passes[-2:]] if len(passes) > 3 else passes,
        "bad_challenger": bad,
    }


def part_of(
    options: argparse.Namespace, folder: Path, asked: Dataset, unseen: Dataset
) -> tuple[Path, dict[str, list[str]]]:
    """The corpus, or its first documents; and the questions of each split that it answers."""
    path = options.data / "corpus.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [line for number, line in enumerate(lines) if not options.documents or number < options.documents]
    kept = folder / "corpus.jsonl"
    kept.write_text("".join(rows), encoding="utf-8")
    known = {str(json.loads(row)["_id"]) for row in rows}
    held = {
        split: [name for name, grades in data.judgements.items() if known & {d for d, g in grades.items() if g > 0}]
        for split, data in (("train", asked), ("dev", unseen))
    }
    return kept, held


def _operator(settings: Settings) -> dict[str, str]:
    return {"Authorization": f"Bearer {operator_key(settings)}"}


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--champion", default="builtin-small", help="a cross-encoder that does not know the corpus")
    parser.add_argument("--documents", type=int, default=0, help="only the first so many")
    parser.add_argument("--feedback", type=int, default=900, help="questions asked before the first pass")
    parser.add_argument("--between", type=int, default=150, help="questions asked between two passes")
    parser.add_argument("--certify-on", type=int, default=330)
    parser.add_argument("--unseen", type=int, default=150, help="questions that measure")
    parser.add_argument("--budget-minutes", type=float, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fathom-improvement-") as folder:
        report = measure(Path(folder), options)
    about = {"machine": machine.machine(), "cores": os.cpu_count(), "date": datetime.now(UTC).date().isoformat()}
    print(json.dumps({**report, **about}, indent=1))


if __name__ == "__main__":
    main()
