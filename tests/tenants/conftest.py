"""Both databases of the control plane, for real: an SQLite file, and a PostgreSQL server that the tests start."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.bench.servers import PostgresServer, postgres, postgres_binaries
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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    with postgres() as server:
        yield server


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
