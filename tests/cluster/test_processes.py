"""Processes of a platform are found by their mark, stopped with their children, and nothing else is touched."""

import os
import sys
import time

import pytest

from cluster.processes import MARK, is_alive, members, run, start, stop

SLEEPER = "import time; time.sleep(900)"
# A child that hides its environment's mark and ignores the polite signal, as Ray's renamed workers may.
PARENT = (
    "import os, signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "clean = {k: v for k, v in os.environ.items() if k != 'FATHOM_PLATFORM_ID'}\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(900)'], env=clean)\n"
    "print('up', flush=True)\n"
    "time.sleep(900)\n"
)


@pytest.fixture
def name():
    identity = f"test-{os.urandom(6).hex()}"
    yield identity
    stop(identity, grace_s=0)


def until(condition, limit_s=300):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_started_process_is_a_member_and_leads_a_session(name, tmp_path):
    pid = start([sys.executable, "-c", SLEEPER], {MARK: name}, tmp_path / "log")
    until(lambda: [process.pid for process in members(name)] == [pid])
    assert os.getsid(pid) == pid


def test_stop_ends_children_that_lost_the_mark(name, tmp_path):
    start([sys.executable, "-c", PARENT], {MARK: name}, tmp_path / "log")
    until(lambda: "up" in (tmp_path / "log").read_text())
    found = members(name)
    assert len(found) == 2
    assert stop(name, grace_s=0.1) == 2
    assert not any(is_alive(process.pid) for process in found)


def test_stop_leaves_others_alone(name, tmp_path):
    other = f"{name}-other"
    pid = start([sys.executable, "-c", SLEEPER], {MARK: other}, tmp_path / "log")
    until(lambda: members(other))
    assert stop(name, grace_s=0) == 0
    assert is_alive(pid)
    assert stop(other, grace_s=5) == 1


@pytest.mark.parametrize(("code", "well"), [("pass", True), ("raise SystemExit(3)", False)])
def test_run_says_whether_it_ended_well(name, tmp_path, code, well):
    assert run([sys.executable, "-c", code], {MARK: name}, tmp_path / "log", 60) is well


def test_run_gives_up_at_its_limit(name, tmp_path):
    assert run([sys.executable, "-c", SLEEPER], {MARK: name}, tmp_path / "log", 0.2) is False
