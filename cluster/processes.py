"""Processes of one platform: started in sessions of their own, found again by a mark, stopped without orphans.

Every process that `up` starts carries `FATHOM_PLATFORM_ID` in its environment and leads a session; what it
starts inherits both. A member is therefore whoever carries the mark or lives in a marked session: nothing else
on the machine is touched, other platforms' Ray included, and a crash that lost every handle changes nothing.
Linux only (`/proc`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "FATHOM_PLATFORM_ID"
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Process:
    """One live process: `session` is its session id, `rss_bytes` its resident memory."""

    pid: int
    session: int
    name: str
    rss_bytes: int


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Start `command` as the leader of a new session, output appended to `log`; returns its pid.

    It outlives the caller, so no handle is kept.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        command[0],
        list(command),
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def run(command: Sequence[str], environment: Mapping[str, str], log: Path, limit_s: float) -> bool:
    """Like `start`, but wait for the end; whether it ended well within `limit_s` seconds."""
    pid = start(command, environment, log)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        ended, state = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(state) == 0
        time.sleep(POLL_S)
    return False


def is_member(pid: int, platform_id: str) -> bool:
    """Whether `pid` runs and is the platform's: a number that was given to another process since is not."""
    return _look(pid) is not None and _carries(pid, platform_id)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not collected does not."""
    return _look(pid) is not None


def members(platform_id: str) -> list[Process]:
    """Every live process of the platform."""
    alive = [process for pid in _pids() if (process := _look(pid)) is not None]
    marked = {process.pid for process in alive if _carries(process.pid, platform_id)}
    sessions = {process.session for process in alive if process.pid in marked} - {os.getsid(0)}
    return [process for process in alive if process.pid in marked or process.session in sessions]


def stop(platform_id: str, *, grace_s: float) -> int:
    """Ask every member to end, kill what is left after `grace_s` seconds; returns how many there were.

    Looks again until none is left: a dying parent may have started one more.
    """
    first = members(platform_id)
    _signal([process for process in first if process.pid == process.session], signal.SIGTERM)
    _wait_gone(platform_id, grace_s)
    while rest := members(platform_id):
        _signal(rest, signal.SIGKILL)
        _wait_ended(rest, 1)
    return len(first)


def _wait_gone(platform_id: str, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while members(platform_id) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _wait_ended(processes: Sequence[Process], limit_s: float) -> None:
    """By their numbers: a child without the mark is no member any more once its parent is gone, but may still run."""
    deadline = time.monotonic() + limit_s
    while any(is_alive(process.pid) for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _signal(processes: Sequence[Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _look(pid: int) -> Process | None:
    try:
        raw = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # proc(5): pid (comm) state ppid pgrp session …; comm may hold spaces and brackets. Field 24 is rss in pages.
    name, _, rest = raw[raw.index("(") + 1 :].rpartition(")")
    fields = rest.split()
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[3]), name, int(fields[21]) * os.sysconf("SC_PAGESIZE"))


def _carries(pid: int, platform_id: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"{MARK}={platform_id}".encode() in environment.split(b"\0")
