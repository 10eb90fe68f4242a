"""The audit log where SQLite and PostgreSQL differ: key sizes, snapshots, and deletions beside appends."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.bench.servers import PostgresServer, postgres, postgres_binaries
from services.audit import log as log_module
from services.audit import reading
from services.audit.log import SqlAuditLog, open_audit_log
from services.audit.reading import AuditReader
from services.contracts import AuditRecord, AuditText
from tenants.database import Database
from tenants.errors import NotFound
from tests import fakes

UID = fakes.scope().uid
LIMIT_S = 300


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/audit.db"
        return
    server: PostgresServer = request.getfixturevalue("server")
    schema = f"a_{uuid.uuid4().hex}"
    server.execute(f"CREATE SCHEMA {schema}")
    yield server.url(schema)
    server.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def log(url: str) -> Iterator[SqlAuditLog]:
    opened = open_audit_log(url)
    yield opened
    opened.close()


@pytest.fixture
def reader(url: str) -> Iterator[AuditReader]:
    database = Database(url)
    yield AuditReader(database)
    database.close()


def record(number: int, document: str = "doc") -> AuditRecord:
    texts = (AuditText("answer", f"answer {number}"), AuditText("quote.1", f"quote {number}", document))
    return AuditRecord(f"q_{number}", 1_000, {"number": number}, texts, (document,))


async def test_the_longest_document_id_is_kept_found_and_erased(log: SqlAuditLog, reader: AuditReader) -> None:
    letters = [chr(0x20000 + 31 * number) for number in range(1024)]  # four bytes each, and hard to compress
    long, longer = "".join(letters), "".join(letters[:-1]) + "x"
    await asyncio.gather(log.append(fakes.scope(), record(1, long)), log.append(fakes.scope(), record(2, longer)))
    assert reader.erase_documents(UID, [long]) == 2
    assert set(reader.read(UID, "q_1")["texts"].values()) == {None}
    assert reader.read(UID, "q_2")["texts"]["quote.1"] == "quote 2"
    assert reader.verify_chain(UID).intact


async def test_a_check_beside_questions_sees_one_moment(
    log: SqlAuditLog, reader: AuditReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append(fakes.scope(), record(1))
    heads = reading._heads

    def later(connection: Any, uid: str) -> Any:
        """Between the links and their heads another question is recorded."""
        _appended(log, record(2))
        return heads(connection, uid)

    with monkeypatch.context() as patched:
        patched.setattr(reading, "_heads", later)
        report = await asyncio.to_thread(reader.verify_chain, UID)
    assert report.intact, report.faults
    assert report.records == 1
    assert reader.verify_chain(UID).records == 2


async def test_a_deleted_tenant_leaves_nothing_behind_and_others_go_on(log: SqlAuditLog, reader: AuditReader) -> None:
    other = fakes.scope()
    object.__setattr__(other, "uid", "t_" + "1" * 20)
    await log.append(fakes.scope(), record(1))
    reader.delete_tenant(UID)
    outcomes = await asyncio.gather(
        *(
            log.append(scope, record(number))
            for number, scope in enumerate([fakes.scope(), other, fakes.scope(), other])
        ),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [NotFound, type(None), NotFound, type(None)]
    assert list(reader.export(UID)) == []
    assert reader.uids() == {other.uid}
    assert len(list(reader.export(other.uid))) == 2
    assert reader.verify_chain(other.uid).intact
    reader.delete_tenant(UID)  # safe to repeat


async def test_an_append_under_way_is_waited_for_and_deleted(
    log: SqlAuditLog, reader: AuditReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, deleting = threading.Event(), threading.Event()
    store = log_module._store

    def slow(*arguments: Any) -> None:
        """The record found its tenant alive; now the deletion begins."""
        checked.set()
        assert deleting.wait(LIMIT_S)
        store(*arguments)

    monkeypatch.setattr(log_module, "_store", slow)
    appended = asyncio.create_task(log.append(fakes.scope(), record(1)))
    assert await asyncio.to_thread(checked.wait, LIMIT_S)
    hold_off = reading.hold_off_appends

    def told(connection: Any) -> None:
        deleting.set()
        hold_off(connection)

    monkeypatch.setattr(reading, "hold_off_appends", told)
    if reader._database.is_sqlite:
        deleting.set()  # its one write lock lets the deletion begin only after the append
    await asyncio.to_thread(reader.delete_tenant, UID)
    await appended
    assert reader.uids() == frozenset()
    assert list(reader.export(UID)) == []


def _appended(log: SqlAuditLog, one: AuditRecord) -> None:
    log._group.submit(log_module._packed(UID, one, kept=True)).result(LIMIT_S)
