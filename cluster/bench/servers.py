"""Servers that a benchmark or a test starts for itself: a real PostgreSQL, and an S3 that keeps its objects in memory.

Each lives below a temporary folder and ends with its block. PostgreSQL listens on a socket in its folder, never on a
port, so that runs side by side do not meet; it refuses to run as root, and then runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import httpx

from tenants.errors import Unavailable

START_LIMIT_S = 300.0
SOCKET_ROOT = "/tmp"  # noqa: S108 - a short path: names of sockets have 107 bytes
_ADDRESS = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


class PostgresServer:
    """One server process tree below `folder`."""

    def __init__(self, binaries: Path, folder: Path, user: str | None) -> None:
        self.binaries, self.folder, self.user = binaries, folder, user

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end; raises `Unavailable` with what it said."""
        gid = pwd.getpwnam(self.user).pw_gid if self.user else None
        done = subprocess.run(  # noqa: S603 - the command is ours, word for word
            [str(self.binaries / program), *arguments], cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
            user=self.user, group=gid, extra_groups=[] if self.user else None,
        )  # fmt: skip
        if done.returncode:
            raise Unavailable(f"{program} failed: {done.stdout}")

    def start(self) -> None:
        """An empty cluster, ready to answer. No fsync: what it holds ends with the block."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=60 -c lock_timeout=60s"
        self.run("initdb", "-D", "data", "-U", "fathom", "-A", "trust", "-E", "UTF8", "--locale=C")
        self.run("pg_ctl", "-D", "data", "-w", "-t", "300", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        """End every process of it, if it runs."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.run("pg_ctl", "-D", "data", "-m", "immediate", "stop")

    def url(self, schema: str = "public") -> str:
        """A schema is as good as a database of its own, and made and dropped much faster."""
        return (
            f"postgresql://fathom@/postgres?host={quote(str(self.folder))}&options={quote(f'-csearch_path={schema}')}"
        )

    def execute(self, statement: str) -> None:
        """Run one statement."""
        import psycopg

        with psycopg.connect(host=str(self.folder), user="fathom", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)


def postgres_binaries() -> Path | None:
    """The folder of the newest installed server: Debian keeps it off the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    candidates = [*folders, *([Path(on_path).resolve().parent] if on_path else []), Path("/usr/local/pgsql/bin")]
    return next(
        (folder for folder in candidates if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None
    )


@contextlib.contextmanager
def postgres() -> Iterator[PostgresServer]:
    """A running server. Raises `Unavailable` where none is installed."""
    binaries = postgres_binaries()
    if binaries is None:
        raise Unavailable("no PostgreSQL server is installed; apt-get install postgresql")
    user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="fathom-pg-", dir=SOCKET_ROOT))
    server = PostgresServer(binaries, folder, user)
    try:
        if user:
            shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged_user() -> str | None:
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class S3Server:
    """Where it answers, and what a client's environment must say to reach it."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def environment(self) -> Mapping[str, str]:
        """For LanceDB, obstore and every other client that reads the usual variables."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",  # the server asks for one and takes any
            "AWS_REGION": "us-east-1",
        }

    def create(self, bucket: str) -> None:
        """Make an empty bucket; a name has at least three characters."""
        httpx.put(f"{self.url}/{bucket}").raise_for_status()


@contextlib.contextmanager
def s3() -> Iterator[S3Server]:
    """A running server (moto) in a process of its own, on a free port of loopback."""
    with tempfile.TemporaryDirectory(prefix="fathom-s3-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=output, stderr=output
            )
        try:
            yield S3Server(_address(server, log))
        finally:
            server.kill()
            server.wait()


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and server.poll() is None:
        if found := _ADDRESS.search(log.read_text("utf-8", "replace")):
            return found.group(1)
        time.sleep(0.1)
    raise Unavailable(f"the S3 server did not start: {log.read_text('utf-8', 'replace')[-500:]}")
