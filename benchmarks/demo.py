"""`make demo` as a new user meets it: seconds of the first run and of the second, and the memory of all its processes.

    git clone … fathom && cd fathom && python3.11 benchmarks/demo.py

Needs a clone without `.venv` and `.fathom`, and nothing but Python: the first run installs. Every process that the
demo started is counted, the platform's own included (they outlive `make demo`), by PSS: a page that several processes
share is counted once. Stops the platform at the end and prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARK = "MEASURED_DEMO"  # not FATHOM_*: the platform's children inherit it
PERIOD_S = 2.0
MIB = 1024 * 1024


def memory(mark: str) -> tuple[int, dict[str, int]]:
    """PSS in bytes of every process that carries `mark` or descends from one that does, and its sums by name."""
    parents: dict[int, int] = {}
    marked: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            if mark.encode() in (entry / "environ").read_bytes():
                marked.add(int(entry.name))
        except OSError:
            continue
    names: dict[str, int] = {}
    for pid in parents:
        if any(ancestor in marked for ancestor in _line(pid, parents)):
            name, size = _pss(pid)
            names[name] = names.get(name, 0) + size
    return sum(names.values()), names


def _line(pid: int, parents: dict[int, int]) -> list[int]:
    """`pid` and its ancestors."""
    line = [pid]
    while (parent := parents.get(line[-1], 0)) > 1:
        line.append(parent)
    return line


def _pss(pid: int) -> tuple[str, int]:
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return "", 0
    return name, sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


class Watch(threading.Thread):
    """Samples `memory` until `stop`; `peak` is the largest sum seen, `names` what made it up."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self._mark, self._ended = mark, threading.Event()
        self.peak, self.names = 0, dict[str, int]()

    def run(self) -> None:
        """Until `stop`."""
        while not self._ended.wait(PERIOD_S):
            total, names = memory(self._mark)
            if total > self.peak:
                self.peak, self.names = total, names

    def stop(self) -> None:
        """End the sampling."""
        self._ended.set()
        self.join()


def demo(environment: dict[str, str]) -> float:
    """Seconds of one `make demo`; its output goes to stderr."""
    started = time.monotonic()
    subprocess.run(["make", "demo"], cwd=ROOT, env=environment, stdout=sys.stderr, check=True)
    return time.monotonic() - started


def measure() -> dict[str, Any]:
    """Both runs, watched."""
    mark = f"{MARK}={os.getpid()}-{time.time_ns()}"
    watch = Watch(mark)
    environment = {**os.environ, MARK: mark.partition("=")[2]}
    watch.start()
    try:
        first, second = demo(environment), demo(environment)
    finally:
        watch.stop()
        subprocess.run(["make", "down"], cwd=ROOT, stdout=sys.stderr, check=False)
    largest = sorted(watch.names.items(), key=lambda item: -item[1])[:8]
    return {
        "first_run_s": round(first, 1),
        "second_run_s": round(second, 1),
        "peak_pss_mib": watch.peak // MIB,
        "largest_at_peak_mib": {name: size // MIB for name, size in largest},
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    """Refuse a clone that is not fresh, then measure."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if used := [name for name in (".venv", ".fathom") if (ROOT / name).exists()]:
        sys.exit(f"{ROOT} is not a fresh clone: it has {', '.join(used)}")
    print(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
