"""HAProxy's configuration as Serve writes it, mended by the wrapper, read by the real HAProxy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cluster.ingress import haproxy_environment

GENERATED = """global
    stats socket {folder}/a.sock mode 666 level admin expose-fd listeners
    maxconn 64
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    balance leastconn
frontend prometheus
    bind :19101
    mode http
    no log
frontend http_frontend
    bind 127.0.0.1:18000
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain string "no route"
listen stats
  bind *:18404
  stats enable
"""


@pytest.fixture
def mended(tmp_path: Path) -> str:
    config = tmp_path / "haproxy.cfg"
    config.write_text(GENERATED.format(folder=tmp_path))
    variables = haproxy_environment(str(tmp_path))
    command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(config)]
    for _ in range(2):  # a second run finds its work done
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return config.read_text()


def test_every_page_listens_on_loopback(mended: str) -> None:
    binds = [line.split()[1] for line in mended.splitlines() if line.split()[:1] == ["bind"]]
    assert binds == ["127.0.0.1:19101", "127.0.0.1:18000", "127.0.0.1:18404"]


def test_haproxys_own_errors_are_problems(mended: str) -> None:
    assert "errorfile" not in mended
    for status in (400, 408, 502, 503, 504):
        assert mended.count(f"http-error status {status} content-type application/problem+json") == 1
    assert mended.count("acl fathom_refusal_text") == 1


def test_nothing_listens_elsewhere_unless_asked() -> None:
    assert haproxy_environment("/tmp/x")["HAPROXY_PAGES_HOST"] == "127.0.0.1"
