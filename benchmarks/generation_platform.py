"""The platform that benchmarks/generation.py measures: a vLLM engine on a random checkpoint, a tenant with docs."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from cluster.processes import members
from services.control_plane import open_control_plane
from services.handles import GENERATOR_DEPLOYMENT, RemoteEngine, generator_application
from services.settings import Settings
from tenants.config import validate_config

ROOT = Path(__file__).resolve().parents[1]
TENANT = {"answer": {"unsupported": "mark", "abstain": "never"}, "quotas": {"requests_per_minute": 10_000_000}}
QUESTIONS = ("How do I stop the platform?", "What does a rollback do?", "How long is an idempotency key kept?")


class Bench:
    """The running platform, its tenant's key, and the engine behind it."""

    def __init__(self, info: Any, key: str) -> None:
        self.info, self.key = info, key
        self.base = f"{info.url}/t/bench/v1"
        self.headers = {"Authorization": f"Bearer {key}"}
        self.chance = random.Random(0)

    def body(self, **more: Any) -> dict[str, Any]:
        """A question for the generator."""
        return {"query": self.chance.choice(QUESTIONS), "generator": "vllm", "rerank": "never", **more}

    async def at_work(self, client: httpx.AsyncClient) -> int | None:
        """Requests in the engine, None while it is away."""
        parts = (await client.get(f"{self.info.url}/readyz")).json()["components"]
        detail = next(part["detail"] for part in parts if part["name"] == "generator vllm")
        found = re.search(r", (\d+) answers at work", detail)
        return int(found.group(1)) if found else None

    def processes(self, name: str) -> list[psutil.Process]:
        """The platform's processes whose command line holds `name`."""
        found = []
        for member in members(self.info.id):
            try:
                process = psutil.Process(member.pid)
                if name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


@cache
def engine() -> RemoteEngine:
    """The engine's handle in this process, which is attached to the platform's Ray."""
    return RemoteEngine(generator_application("vllm"), GENERATOR_DEPLOYMENT)


def cuts(values: list[float], unit: str) -> dict[str, float]:
    """Median and 95th percentile."""
    if not values:
        return {}
    return {f"p{cut}_{unit}": round(float(np.percentile(values, cut)), 2) for cut in (50, 95)}


def make_tenant(settings: Settings, data_dir: str) -> str:
    """A tenant with this project's docs; gives its key."""
    store = open_control_plane(settings)
    tenant = store.create_tenant("bench", validate_config(TENANT))
    key, _ = store.add_key(tenant, "admin")
    store.close()
    environment = {**os.environ, "FATHOM_DATA_DIR": data_dir}
    command = [sys.executable, "-m", "cluster.cli", "index", "bench", str(ROOT / "docs"), "--json"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return key
