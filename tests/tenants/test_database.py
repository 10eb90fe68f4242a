"""The database below the store: schema, durability settings, outages, forks, threads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tenants.database import Database
from tenants.errors import InvalidInput, Unavailable
from tenants.records import Tenant
from tenants.store import Store, open_store
from tenants.tables import METADATA


def test_the_migrations_make_the_tables_that_the_code_uses(store: Store):
    with store._database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_opening_again_changes_nothing(store: Store, acme: Tenant, store_url: str):
    again = open_store(store_url)
    assert again.list_tenants() == [acme]
    again.close()


def test_many_starts_at_once_migrate_once(store_url: str):
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: open_store(store_url, pepper=b"p"), range(8)))
    for store in stores:
        store.ping()
        store.close()


def test_sqlite_is_durable_and_overwrites_what_is_deleted(tmp_path: Path):
    store = open_store(f"sqlite:///{tmp_path}/control.db")
    names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
    with store._database.reading() as connection:
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]
    assert values == ["wal", 2, 1, 1, 10_000]
    store.close()


@pytest.mark.parametrize("url", ["", "mysql://host/x", "sqlite://", "sqlite:///:memory:", "no url at all"])
def test_another_database_is_refused(url: str):
    with pytest.raises(InvalidInput, match="sqlite:///file"):
        Database(url)


@pytest.mark.parametrize(
    "url",
    ["postgresql://fathom@/x?host=/nowhere/at/all", "postgresql://fathom@127.0.0.1:1/x", "sqlite:////proc/control.db"],
)
def test_a_database_that_does_not_answer_is_unavailable(url: str):
    with pytest.raises(Unavailable) as error:
        open_store(url)
    assert "127.0.0.1" not in error.value.detail, "hosts are for the log, not for a caller"


def test_an_sqlite_file_that_is_none_is_unavailable(tmp_path: Path):
    (tmp_path / "control.db").write_text("this is a text file, of no use as a database" * 100)
    with pytest.raises(Unavailable, match="does not answer"):
        open_store(f"sqlite:///{tmp_path}/control.db")


def test_a_forked_child_makes_its_own_connections(store: Store, acme: Tenant):
    store.ping()
    # os.fork in a process with threads warns, rightly; the child here only talks to the store.
    code = (
        "import os, sys, warnings\n"
        "from tenants.store import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "before = store.get_tenant('acme')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    mine = store.get_tenant('acme') == before\n"
        "    store.close()\n"
        "    os._exit(0 if mine else 1)\n"
        "_, status = os.waitpid(child, 0)\n"
        "assert store.get_tenant('acme') == before\n"
        "store.close()\n"
        "sys.exit(os.waitstatus_to_exitcode(status))\n"
    )
    url = store._database.url.render_as_string(hide_password=False)
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def test_more_threads_than_connections_all_write(store: Store, acme: Tenant):
    with ThreadPoolExecutor(48) as pool:
        list(pool.map(lambda n: store.add_feedback(acme, f"q_{n}", {"rating": 1}), range(192)))
    rows, _ = store.list_feedback(acme, limit=1_000)
    assert sorted(row.query_id for row in rows) == sorted(f"q_{n}" for n in range(192))


def test_a_failed_write_leaves_nothing(store: Store, acme: Tenant):
    def fail_half_way() -> None:
        with store._database.writing() as connection:
            connection.execute(METADATA.tables["tenants"].delete())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert store.list_tenants() == [acme]


def test_acknowledged_writes_survive_a_killed_process(store_url: str):
    code = (
        "import os, sys\n"
        "from tenants.store import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "for n in range(10_000):\n"
        "    store.create_tenant(f't{n}')\n"
        "    print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, store_url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(50)]
    process.kill()
    acknowledged += [int(line) for line in process.communicate(timeout=600)[0].splitlines() if line.strip()]
    store = open_store(store_url)
    kept = {tenant.name for tenant in store.list_tenants()}
    assert {f"t{n}" for n in acknowledged} <= kept
    assert len(kept) <= len(acknowledged) + 1
    store.close()


def test_the_process_is_not_the_parent_after_closing(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path}/x.db")
    first = database.engine
    assert database.engine is first
    database.close()
    assert database.engine is not first
    assert database._pid == os.getpid()
    database.close()
