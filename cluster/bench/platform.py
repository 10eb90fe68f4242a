"""A platform under test, seen from outside: tenants made and unmade over HTTP, corpora indexed by the CLI."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cluster.bench.load import Call
from services.settings import load_settings
from tenants.errors import FathomError, Unavailable

UNLIMITED = {"quotas": {"requests_per_minute": 10_000_000, "concurrent": 10_000}}
BATCH = 1_000  # documents that one POST may carry


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant of the bench and a key of it."""

    name: str
    key: str
    base: str

    def search(self, text: str, **fields: Any) -> Call:
        """One search of this tenant as a load call."""
        return Call(f"{self.base}/search", self.key, {"query": text, **fields}, group=self.name)


@dataclass(frozen=True, slots=True)
class Platform:
    """Where it answers, and the operator's key."""

    url: str
    admin_key: str
    data_dir: str

    def create(self, name: str, config: Mapping[str, Any] = UNLIMITED) -> Tenant:
        """Make a tenant; its quotas do not stand in the way of a load test unless `config` says so."""
        answer = self._admin("POST", "/admin/v1/tenants", json={"name": name, "config": config})
        return Tenant(name, answer["api_key"], f"{self.url}/t/{name}/v1")

    def delete(self, name: str) -> None:
        """Remove a tenant with everything of it; an unknown one is fine."""
        with contextlib.suppress(FathomError):
            self._admin("DELETE", f"/admin/v1/tenants/{name}")

    @contextlib.contextmanager
    def tenants(
        self, names: Sequence[str], config: Mapping[str, Any] = UNLIMITED, *, keep: bool = False
    ) -> Iterator[list[Tenant]]:
        """Fresh tenants for the time of the block; `keep` takes those that exist and leaves all for the next run."""
        if not keep:
            for name in names:
                self.delete(name)
        try:
            yield [self.known(name) or self.create(name, config) for name in names]
        finally:
            if not keep:
                for name in names:
                    self.delete(name)

    def known(self, name: str) -> Tenant | None:
        """A tenant that exists, with a new key of it; None for an unknown one."""
        if all(one["tenant"] != name for one in self._admin("GET", "/admin/v1/tenants")["tenants"]):
            return None
        key = self._admin("POST", f"/admin/v1/tenants/{name}/keys", json={"scope": "admin"})["api_key"]
        return Tenant(name, key, f"{self.url}/t/{name}/v1")

    def chunks(self, tenant: str) -> int:
        """How many chunks its current version has; 0 without one."""
        versions = self._admin("GET", f"/t/{tenant}/v1/versions")["versions"]
        return next((int(one["chunks"]) for one in versions if one["current"]), 0)

    def index(self, tenant: str, source: Path) -> dict[str, Any]:
        """Run `fathom index` and return its JSON document."""
        command = [sys.executable, "-m", "cluster.cli", "index", tenant, str(source), "--json"]
        done = subprocess.run(  # noqa: S603  the command is ours, word for word
            [*command, "--data-dir", self.data_dir], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise FathomError(f"indexing {tenant} failed: {done.stderr[-2000:] or done.stdout[-2000:]}")
        return dict(json.loads(done.stdout))

    def index_documents(self, tenant: str, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Index JSONL documents: few in one POST, which takes the job's code without its start, many by the job."""
        if len(documents) <= BATCH:
            return self._admin("POST", f"/t/{tenant}/v1/documents", json={"documents": list(documents)})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "documents.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")
            return self.index(tenant, path)

    def _admin(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        answer = httpx.request(method, self.url + path, headers=headers, timeout=300, **arguments)
        if answer.status_code >= 400:
            raise FathomError(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
        return dict(answer.json()) if answer.content else {}


def running_platform(data_dir: str | None) -> Platform:
    """The platform that `fathom up` started on this data dir; raises `Unavailable` when none runs."""
    settings = load_settings(data_dir=data_dir)
    folder = Path(settings.data_dir).absolute()
    try:
        info = json.loads((folder / "run" / "platform.json").read_text(encoding="utf-8"))
        key = settings.admin_key or (folder / "secrets" / "admin.key").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise Unavailable(f"no platform runs on {folder}; start one with `fathom up --data-dir {folder}`") from None
    return Platform(info["url"], key, str(folder))
