"""Both databases of the control plane, for real: an SQLite file, and a PostgreSQL server that the tests start.

The server listens on a socket in a folder of its own, never on a port, so that runs side by side do not meet.
PostgreSQL refuses to run as root; then it runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from tenants.records import Tenant
from tenants.store import Store, open_store

PEPPER = b"a pepper of the tests, 32 bytes!"


class ManualClock:
    """The store's clock under the test's hand: expiry needs no waiting."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **duration: float) -> None:
        self.now += timedelta(**duration)


class PostgresServer:
    """One server process tree below `folder`."""

    def __init__(self, binaries: Path, folder: Path, user: str | None) -> None:
        self.binaries, self.folder, self.user = binaries, folder, user

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), *arguments]
        account = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []} if self.user else {}
        done = subprocess.run(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=120, check=False, **account,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=60 -c lock_timeout=20s"
        self.run("initdb", "-D", "data", "-U", "fathom", "-A", "trust", "-E", "UTF8", "--locale=C")
        self.run("pg_ctl", "-D", "data", "-w", "-t", "60", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", "data", "-m", "immediate", "stop")

    def url(self, schema: str) -> str:
        """A schema is as good as a database of its own, and made and dropped much faster."""
        return (
            f"postgresql://fathom@/postgres?host={quote(str(self.folder))}&options={quote(f'-csearch_path={schema}')}"
        )

    def execute(self, statement: str) -> None:
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


def _unprivileged_user() -> str | None:
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="fathom-pg-", dir="/tmp"))  # a short path: socket names have 107 bytes
    server = PostgresServer(binaries, folder, user)
    try:
        if user:
            shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/control.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    schema = f"t_{uuid.uuid4().hex}"
    server.execute(f"CREATE SCHEMA {schema}")
    yield server.url(schema)
    server.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(store_url: str, clock: ManualClock) -> Iterator[Store]:
    store = open_store(store_url, pepper=PEPPER, clock=clock)
    yield store
    store.close()


@pytest.fixture
def acme(store: Store) -> Tenant:
    return store.create_tenant("acme")
