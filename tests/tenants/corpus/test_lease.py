"""The lease: one holder at a time, living holders are respected, dead ones passed at once, zombies are fenced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tenants.corpus import lease as leases
from tenants.corpus import release as releases
from tenants.errors import InFlight, LeaseLost
from tenants.scope import TenantScope

HOLDER = """
import sys, time
from tenants.config import TenantConfig
from tenants.corpus.lease import acquire
from tenants.scope import TenantScope
scope = TenantScope("acme", sys.argv[1], TenantConfig(), sys.argv[2])
with acquire(scope, "holder", ttl_s=float(sys.argv[3])):
    print("held", flush=True)
    sys.stdin.read()
"""


def start_holder(scope: TenantScope, ttl_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, scope.uid, scope.root, str(ttl_s)]
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_second_taker_is_refused_while_the_first_holds(scope):
    with leases.acquire(scope, "job_1"), pytest.raises(InFlight, match="job_1"), leases.acquire(scope, "job_2"):
        pytest.fail("two holders")


def test_tokens_grow_and_a_released_lease_is_free_at_once(scope):
    tokens = []
    for _ in range(4):
        with leases.acquire(scope, "job") as lease:
            lease.check()
            tokens.append(lease.token)
    assert tokens == [1, 2, 3, 4]


def test_of_many_threads_exactly_one_works_at_a_time(scope):
    inside, most, done = 0, 0, []

    def work(number: int) -> None:
        nonlocal inside, most
        with leases.acquire(scope, f"job_{number}", wait_s=300) as lease:
            inside += 1
            most = max(most, inside)
            lease.check()
            done.append(lease.token)
            inside -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(set(done)) == 8


def test_living_holder_of_another_process_is_respected(scope):
    process = start_holder(scope, ttl_s=10)
    try:
        with pytest.raises(InFlight), leases.acquire(scope, "job_2"):
            pytest.fail("two holders")
    finally:
        stop(process)


def test_killed_holder_is_passed_at_once(scope):
    process = start_holder(scope, ttl_s=3600)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with leases.acquire(scope, "job_2", ttl_s=3600) as lease:
        assert lease.token == 2
    stop(process)


def test_unreaped_zombie_counts_as_dead(scope):
    process = start_holder(scope, ttl_s=3600)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with leases.acquire(scope, "job_2", ttl_s=3600) as lease:
        assert lease.token == 2
    stop(process)


def test_frozen_holder_is_passed_after_its_time_and_fenced(scope, make_release):
    process = start_holder(scope, ttl_s=0.4)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        with leases.acquire(scope, "job_2", ttl_s=0.4, wait_s=300) as lease:
            assert lease.token == 2
            releases.publish(scope, make_release(), lease)
    finally:
        os.kill(process.pid, signal.SIGCONT)
        stop(process)


def test_passed_holder_learns_it_and_cannot_publish(scope, make_release):
    with leases.acquire(scope, "zombie", ttl_s=3600) as zombie:
        taker = leases._put_next(zombie.objects, zombie.folder, zombie.token, "taker")
        assert taker
        with pytest.raises(LeaseLost):
            zombie.check()
        with pytest.raises(LeaseLost):
            releases.publish(scope, make_release(), zombie)
    assert releases.current(scope) is None


def test_taker_that_slept_over_a_clearing_loses(scope):
    for _ in range(5):
        with leases.acquire(scope, "job") as lease:
            objects = lease.objects
    assert not leases._put_next(objects, "lease", 1, "slept since token 1")
    assert leases._newest(objects, "lease") == 5


def test_unknown_machine_is_judged_by_its_beat_not_by_clocks(scope, monkeypatch):
    with leases.acquire(scope, "elsewhere", ttl_s=0.4):
        monkeypatch.setattr(leases, "is_running", lambda identity: None)
        with pytest.raises(InFlight), leases.acquire(scope, "job_2", ttl_s=60):
            pytest.fail("two holders")


def test_process_identity_tells_this_process_from_a_dead_one():
    assert leases.is_running(leases.process_identity()) is True
    child = subprocess.run(
        [sys.executable, "-c", "from tenants.corpus.lease import process_identity; print(process_identity())"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert leases.is_running(child.stdout.strip()) is False
    assert leases.is_running("other-boot:pid:[1]:1:1") is None
    assert leases.is_running("") is None


def test_waiting_ends_at_its_deadline(scope):
    with leases.acquire(scope, "job_1"):
        started = time.monotonic()
        with pytest.raises(InFlight), leases.acquire(scope, "job_2", wait_s=0.2):
            pytest.fail("two holders")
        assert time.monotonic() - started >= 0.2
