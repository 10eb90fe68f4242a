"""`make demo`: the platform on this machine, two tenants, real documents, three questions with cited answers.

    python -m cluster.demo [--data-dir DIR]

Tenant `python` reads the standard library of the running interpreter, tenant `fathom` this project's own docs.
Everything is the operator's own commands; a second run re-uses the platform, the tenants and the index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import local
from cluster.cli.ask_verbs import answer_lines, decision_lines
from cluster.cli.client import Client
from cluster.cli.indexing import Order, run_here
from cluster.cli.output import FAILURE
from cluster.platform import PlatformInfo
from services.control_plane import operator_key
from services.settings import Settings, load_settings
from tenants.errors import FathomError, NotFound

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "__pycache__", "lib-dynload", "ensurepip"})
GENERATED = ("config-", "topics.py", "_sysconfigdata")
# Without README.md: it shows this demo's output, which would answer its own questions.
OWN_DOCS = ("CHANGELOG.md", "docs", "cluster/README.md")


@dataclass(frozen=True, slots=True)
class Question:
    """One question to one tenant."""

    tenant: str
    text: str


QUESTIONS = (
    Question("python", "How does tempfile decide whether a candidate directory is usable?"),
    Question("python", "Which exception does json raise for an invalid document?"),
    Question("fathom", "How long is an idempotency key kept?"),
)


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description="Index real documents and ask three questions.")
    parser.add_argument("--data-dir", default=None)
    settings = load_settings(data_dir=parser.parse_args().data_dir)
    began = time.monotonic()
    try:
        info = _start(settings)
        client = Client(info.url, operator_key(settings))
        for tenant, source in (("python", _standard_library(settings)), ("fathom", _own_docs(settings))):
            _ensure_tenant(client, tenant)
            _index(tenant, source, settings)
        for question in QUESTIONS:
            _ask(client, question)
    except FathomError as error:
        sys.stderr.write(f"demo: {error.detail}\n")
        return FAILURE
    _addresses(info, time.monotonic() - began)
    return 0


def _start(settings: Settings) -> PlatformInfo:
    _title("The platform")
    info = local.up(settings, report=_say)
    _say(f"ready at {info.url}")
    return info


def _ensure_tenant(client: Client, name: str) -> None:
    try:
        client.call("GET", f"/admin/v1/tenants/{name}")
    except NotFound:
        client.call("POST", "/admin/v1/tenants", {"name": name, "config": {}})


def _index(tenant: str, source: Path, settings: Settings) -> None:
    _title(f"Indexing tenant {tenant}")
    found = run_here(
        Order(tenant, (str(source),), "default", sync=True, yes=True, dry_run=False, resume=None), settings
    )
    counts = ", ".join(f"{number} {name}" for name, number in found["documents"].items())
    _say(f"documents: {counts}")
    _say(f"{found['chunks']} chunks in {found['seconds']:.1f} s; index version {found['index_version']} serves")


def _ask(client: Client, question: Question) -> None:
    _title(f"{question.tenant}: {question.text}")
    answer: dict[str, Any] = client.tenant(question.tenant, "POST", "query", {"query": question.text})
    for line in (*answer_lines(answer), *decision_lines(answer, explain=False)):
        _say(line)


def _addresses(info: PlatformInfo, seconds: float) -> None:
    _title(f"Done in {seconds:.0f} s. The platform stays up; `make down` stops it")
    _say(f"API docs       {info.url}/docs")
    _say(f"Ray dashboard  {info.dashboard}   (its token: {info.ray_token_path})")
    _say(f"MLflow         {info.mlflow}")
    _say(f"ask more       .venv/bin/fathom ask python 'How do I …' --data-dir {info.data_dir}")


def _standard_library(settings: Settings) -> Path:
    """The interpreter's own library without tests and site-packages, as a folder of its own.

    Only what changed is copied, so a second run finds every document unchanged.
    """
    source = Path(sysconfig.get_paths()["stdlib"])
    return _mirror({path.relative_to(source): path for path in _library_files(source)}, settings, "python")


def _own_docs(settings: Settings) -> Path:
    found = [path for name in OWN_DOCS for path in _markdown(ROOT / name)]
    return _mirror({path.relative_to(ROOT): path for path in found}, settings, "fathom")


def _library_files(source: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(source):
        names[:] = [name for name in names if name not in LEFT_OUT and not name.startswith(GENERATED)]
        modules = [Path(folder) / name for name in files if name.endswith(".py") and not name.startswith(GENERATED)]
        yield from (module for module in modules if module.stat().st_size)


def _markdown(path: Path) -> list[Path]:
    return sorted(path.rglob("*.md")) if path.is_dir() else [path]


def _mirror(wanted: dict[Path, Path], settings: Settings, name: str) -> Path:
    """Make the folder `demo/{name}` of the data dir hold exactly `wanted` (place → file)."""
    target = Path(settings.data_dir).absolute() / "demo" / name
    for place in [path for path in target.rglob("*") if path.is_file() and path.relative_to(target) not in wanted]:
        place.unlink()
    for place, file in wanted.items():
        copy = target / place
        if copy.exists() and copy.stat().st_mtime_ns == file.stat().st_mtime_ns:
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    return target


def _title(text: str) -> None:
    sys.stdout.write(f"\n== {text}\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
