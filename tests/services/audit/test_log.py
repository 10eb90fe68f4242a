"""The audit log on a real SQLite file: durable, private, tamper-evident, erasable."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.audit.expiry import expire_texts
from services.audit.log import SqlAuditLog, open_audit_log
from services.audit.reading import AuditReader
from services.contracts import AuditRecord, AuditText
from tenants.config import TenantConfig
from tenants.database import Database
from tenants.errors import NotFound, Unavailable
from tenants.ids import TenantUid
from tenants.scope import TenantScope
from tenants.store import open_store
from tests import fakes

DAY_MS = 86_400_000
OTHER = TenantUid("t_" + "1" * 20)


def record(number: int, at_ms: int = 1_000, document: str = "doc-1") -> AuditRecord:
    texts = (
        AuditText("query", f"secret question {number}"),
        AuditText("answer", f"secret answer {number}"),
        AuditText("quote.1", f"secret quote {number}", document),
    )
    return AuditRecord(f"q_{number:032x}", at_ms, {"number": number, "state": "complete"}, texts, (document,))


def other_tenant() -> TenantScope:
    mine = fakes.scope()
    return TenantScope(mine.tenant, OTHER, mine.config, mine.root, mine.release)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'audit.db'}"


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


UID = fakes.scope().uid


async def test_a_record_is_read_back_by_its_tenant_only(log: SqlAuditLog, reader: AuditReader) -> None:
    await log.append(fakes.scope(), record(1))
    found = reader.read(UID, record(1).query_id)
    assert found["number"] == 1
    assert found["texts"] == {
        "query": "secret question 1",
        "answer": "secret answer 1",
        "quote.1": "secret quote 1",
    }
    with pytest.raises(NotFound):
        reader.read(OTHER, record(1).query_id)
    with pytest.raises(NotFound):
        reader.read(UID, record(2).query_id)


async def test_of_a_stream_the_complete_record_is_read(log: SqlAuditLog, reader: AuditReader) -> None:
    first, last = ({"state": state} for state in ("streaming", "complete"))
    await log.append(fakes.scope(), AuditRecord("q_1", 1, first))
    assert reader.read(UID, "q_1")["state"] == "streaming"
    await log.append(fakes.scope(), AuditRecord("q_1", 1, last))
    assert reader.read(UID, "q_1")["state"] == "complete"


async def test_concurrent_appends_of_all_tenants_form_one_chain_each(log: SqlAuditLog, reader: AuditReader) -> None:
    scopes = (fakes.scope(), other_tenant())
    await asyncio.gather(*(log.append(scopes[n % 2], record(n)) for n in range(300)))
    for uid in (UID, OTHER):
        report = reader.verify_chain(uid)
        assert report.intact
        assert (report.records, report.writers, report.texts_gone) == (150, 1, 0)


async def test_many_waiting_records_share_a_transaction(log: SqlAuditLog, url: str) -> None:
    commits = 0
    write = log._write

    def counted(entries: object) -> None:
        nonlocal commits
        commits += 1
        write(entries)

    log._group._write = counted
    await asyncio.gather(*(log.append(fakes.scope(), record(n)) for n in range(200)))
    assert commits < 100


async def test_two_processes_worth_of_writers_do_not_disturb_each_other(url: str, reader: AuditReader) -> None:
    logs = [open_audit_log(url), open_audit_log(url)]
    await asyncio.gather(*(logs[n % 2].append(fakes.scope(), record(n)) for n in range(60)))
    for one in logs:
        one.close()
    report = reader.verify_chain(UID)
    assert report.intact
    assert (report.records, report.writers) == (60, 2)


async def test_flipping_any_byte_anywhere_is_seen(log: SqlAuditLog, reader: AuditReader, tmp_path: Path) -> None:
    for number in range(3):
        await log.append(fakes.scope(), record(number))
    with sqlite3.connect(tmp_path / "audit.db", isolation_level=None) as raw:
        raw.execute("PRAGMA synchronous=OFF")  # thousands of tiny writes; nothing here must survive power loss
        missed = [spot for spot in _flips(raw) if _intact_after(raw, reader, *spot)]
    raw.close()
    assert not missed
    assert reader.verify_chain(UID).intact


def _flips(raw: sqlite3.Connection) -> Iterator[tuple[str, str, int, object, object]]:
    tables = ("audit_chain", "audit_facts", "audit_texts", "audit_sources", "audit_heads")
    for table in tables:
        cursor = raw.execute(f"SELECT rowid, * FROM {table}")
        names = [column[0] for column in cursor.description]
        for row in cursor.fetchall():
            for name, value in zip(names[1:], row[1:], strict=True):
                if name == "uid":  # the row would be another tenant's: seen as a gap, tried in the next test
                    continue
                yield from ((table, name, row[0], value, changed) for changed in _changed(value))


def _changed(value: object) -> Iterator[object]:
    if isinstance(value, bytes):
        step = max(1, len(value) // 24)  # every part of long values, every byte of short ones
        for place in range(0, len(value), step):
            yield value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
    elif isinstance(value, int):
        yield value + 7
    elif isinstance(value, str):
        yield value[:-1] + chr(ord(value[-1]) ^ 1)


def _intact_after(
    raw: sqlite3.Connection, reader: AuditReader, table: str, column: str, row: int, old: object, new: object
) -> bool:
    change = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"
    raw.execute(change, (new, row))
    try:
        return reader.verify_chain(UID).intact
    finally:
        raw.execute(change, (old, row))


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM audit_chain WHERE seq = 2",
        "DELETE FROM audit_chain WHERE seq = 4",
        "DELETE FROM audit_facts WHERE seq = 2",
        "DELETE FROM audit_sources WHERE seq = 2",
        "DELETE FROM audit_heads",
        "UPDATE audit_chain SET uid = 't_x' WHERE seq = 3",
        "UPDATE audit_chain SET seq = CASE seq WHEN 2 THEN 30 WHEN 3 THEN 2 ELSE seq END WHERE seq IN (2, 3)",
        "UPDATE audit_texts SET text = (SELECT text FROM audit_texts t WHERE t.seq = 1 AND t.slot = 'query') "
        "WHERE seq = 2 AND slot = 'query'",
    ],
)
async def test_removing_moving_or_swapping_is_seen(
    log: SqlAuditLog, reader: AuditReader, url: str, damage: str
) -> None:
    for number in range(4):
        await log.append(fakes.scope(), record(number))
    with sqlite3.connect(url.removeprefix("sqlite:///")) as raw:
        raw.execute(damage)
    raw.close()
    assert reader.verify_chain(UID).faults


async def test_a_rewritten_or_vanished_chain_lacks_its_anchor(log: SqlAuditLog, reader: AuditReader) -> None:
    await log.append(fakes.scope(), record(1))
    anchors = reader.heads(UID)
    await log.append(fakes.scope(), record(2))
    assert reader.verify_chain(UID, anchors).intact
    reader.delete_tenant(UID)
    assert reader.verify_chain(UID).intact
    assert not reader.verify_chain(UID, anchors).intact


async def test_erasing_a_document_takes_its_quotes_and_answers_and_keeps_the_chain(
    log: SqlAuditLog, reader: AuditReader, tmp_path: Path
) -> None:
    await log.append(fakes.scope(), record(1, document="doc-1"))
    await log.append(fakes.scope(), record(2, document="doc-2"))
    await log.append(other_tenant(), record(1, document="doc-1"))
    assert reader.erase_documents(UID, ["doc-1"]) == 2
    gone = {"query": "secret question 1", "answer": None, "quote.1": None}
    assert reader.read(UID, record(1).query_id)["texts"] == gone
    assert reader.read(UID, record(2).query_id)["texts"]["answer"] == "secret answer 2"
    assert reader.read(OTHER, record(1).query_id)["texts"]["answer"] == "secret answer 1"
    report = reader.verify_chain(UID)
    assert report.intact
    assert report.texts_gone == 2
    reader.erase_documents(OTHER, ["doc-1"])
    log.close()
    assert not _on_disk(tmp_path, b"secret quote 1")


async def test_text_expires_and_facts_stay(log: SqlAuditLog, reader: AuditReader) -> None:
    await log.append(fakes.scope(), record(1, at_ms=10 * DAY_MS))
    await log.append(fakes.scope(), record(2, at_ms=95 * DAY_MS))
    assert reader.expire(UID, 90, 101 * DAY_MS) == 3
    found = reader.read(UID, record(1).query_id)
    assert found["number"] == 1
    assert set(found["texts"].values()) == {None}
    assert reader.read(UID, record(2).query_id)["texts"]["query"] == "secret question 2"
    assert reader.verify_chain(UID).intact


async def test_a_tenant_that_keeps_digests_only_leaves_no_text(
    log: SqlAuditLog, reader: AuditReader, tmp_path: Path
) -> None:
    await log.append(fakes.scope(audit={"store_text": False}), record(1))
    assert set(reader.read(UID, record(1).query_id)["texts"].values()) == {None}
    report = reader.verify_chain(UID)
    assert report.intact
    assert report.texts_gone == 0
    log.close()
    assert not _on_disk(tmp_path, b"secret")


async def test_deleting_a_tenant_leaves_nothing_of_it(log: SqlAuditLog, reader: AuditReader, tmp_path: Path) -> None:
    await log.append(fakes.scope(), record(1))
    await log.append(other_tenant(), record(2))
    reader.delete_tenant(UID)
    assert list(reader.export(UID)) == []
    assert [one["number"] for one in reader.export(OTHER)] == [2]
    log.close()
    assert not _on_disk(tmp_path, UID.encode())


def _on_disk(folder: Path, needle: bytes) -> bool:
    return any(needle in file.read_bytes() for file in folder.iterdir())


async def test_a_log_that_cannot_be_written_withholds_the_answer_and_recovers(url: str, reader: AuditReader) -> None:
    log = open_audit_log(url)
    await log.append(fakes.scope(), record(1))
    with sqlite3.connect(url.removeprefix("sqlite:///")) as raw:
        raw.execute("ALTER TABLE audit_facts RENAME TO hidden")
    with pytest.raises(Unavailable, match="withheld"):
        await log.append(fakes.scope(), record(2))
    with raw:
        raw.execute("ALTER TABLE hidden RENAME TO audit_facts")
    raw.close()
    await log.append(fakes.scope(), record(3))
    log.close()
    report = reader.verify_chain(UID)
    assert report.intact
    assert (report.records, report.writers) == (2, 2)
    with pytest.raises(Unavailable, match="stopping"):
        await log.append(fakes.scope(), record(4))


WRITER = """
import asyncio, sys
from services.audit.log import open_audit_log
from services.contracts import AuditRecord
from tests import fakes

async def main():
    log = open_audit_log(sys.argv[1])
    number = 0
    while True:
        number += 1
        await log.append(fakes.scope(), AuditRecord(f"q_{number}", number, {"number": number}))
        print(number, flush=True)

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(url: str, reader: AuditReader) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", WRITER, url]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as process:
        assert process.stdout is not None
        acknowledged = 0
        while acknowledged < 25:
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in process.stdout if line.endswith("\n"))])
    report = reader.verify_chain(UID)
    assert report.intact
    assert report.records >= acknowledged
    assert reader.read(UID, f"q_{acknowledged}")["number"] == acknowledged


async def test_the_check_goes_through_the_writer(log: SqlAuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.check()

    def broken(entries: object) -> None:
        raise Unavailable("broken")

    monkeypatch.setattr(log._group, "_write", broken)
    with pytest.raises(Unavailable, match="broken"):
        await log.check()


async def test_the_sweep_expires_by_each_tenants_days_and_finds_texts_of_no_tenant(
    log: SqlAuditLog, reader: AuditReader, tmp_path: Path
) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'control.db'}", pepper=b"a pepper of the tests, 32 bytes!")
    tenant = store.create_tenant("acme", TenantConfig.model_validate({"audit": {"retention_days": 3650}}))
    mine = replace(fakes.scope(), uid=tenant.uid)
    old_ms, now_ms = DAY_MS, 401 * DAY_MS
    await log.append(mine, record(1, at_ms=old_ms))
    await log.append(other_tenant(), record(2, at_ms=old_ms))
    assert expire_texts(store, reader, now_ms) == 3
    assert reader.read(mine.uid, record(1).query_id)["texts"]["query"] == "secret question 1"
    assert set(reader.read(OTHER, record(2).query_id)["texts"].values()) == {None}
    store.close()
