"""A second platform beside the shared one: up, killed, up again, down; on loopback only, nothing left behind."""

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from cluster.platform import read_record
from cluster.processes import members
from tests.conftest import CommandLine

pytestmark = pytest.mark.cluster


@pytest.fixture
def second(tmp_path):
    cli = CommandLine(tmp_path / "second")
    yield cli
    cli("down")


def listeners(pids):
    """Addresses that these processes listen on, from the kernel."""
    lines = subprocess.run(["ss", "-H", "-ltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[3] for line in lines if any(f"pid={pid}," in line for pid in pids)]


def is_loopback(address):
    return address.startswith(("127.0.0.1:", "[::1]:", "[::ffff:127.0.0.1]:"))


def test_a_platform_lives_beside_another_is_killed_and_leaves_nothing(platform, second):
    info = second.ok("up")
    assert info["url"] != platform.url
    record = read_record(str(second.data_dir))
    alive = members(record.id)
    assert [address for address in listeners([process.pid for process in alive]) if not is_loopback(address)] == []
    assert all(oct(path.stat().st_mode & 0o077) == "0o0" for path in (second.data_dir / "secrets").iterdir())
    assert httpx.get(f"{info['dashboard']}/api/jobs/", trust_env=False).status_code == 401

    second.ok("tenant", "create", "survivor")
    for pid in record.pids.values():
        os.kill(pid, signal.SIGKILL)
    again = second.ok("up")
    assert httpx.get(f"{again['url']}/readyz", trust_env=False).status_code == 200
    assert [one["tenant"] for one in second.ok("tenant", "list")["tenants"]] == ["survivor"]
    assert members(record.id) == []

    latest = read_record(str(second.data_dir))
    assert second.ok("down")["stopped"] > 0
    assert members(latest.id) == []
    assert not Path(latest.temp_dir).exists()
    assert read_record(str(second.data_dir)) is None
    assert second.ok("down")["stopped"] == 0
    assert httpx.get(f"{platform.url}/readyz", trust_env=False).status_code == 200


def test_a_start_that_fails_leaves_nothing_and_says_where_to_look(second):
    second.data_dir.mkdir()
    (second.data_dir / "fathom.yaml").write_text("topology: sideways\n")
    ran = second("up", "--config", str(second.data_dir / "fathom.yaml"))
    assert ran.code == 2
    assert "topology" in ran.err
    assert read_record(str(second.data_dir)) is None
