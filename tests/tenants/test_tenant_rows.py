"""Tenants in the store, on both databases."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, inspect, select, text

from tenants.config import TenantConfig, validate_config
from tenants.errors import Conflict, InvalidInput, NotFound
from tenants.records import Tenant
from tenants.store import Store, open_store
from tenants.tables import METADATA


def test_a_created_tenant_reads_back(store: Store):
    config = validate_config({"display_name": "Acme \u0000 é", "quotas": {"concurrent": 3}})
    made = store.create_tenant("acme", config)
    assert store.get_tenant("acme") == made
    assert store.tenant_by_uid(made.uid) == made
    assert (made.state, made.config) == ("active", config)
    assert store.list_tenants() == [made]


def test_a_second_tenant_of_that_name_is_a_conflict(store: Store, acme: Tenant):
    with pytest.raises(Conflict, match="choose another name"):
        store.create_tenant("acme")
    assert store.get_tenant("acme") == acme


@pytest.mark.parametrize("name", ["nobody", "", "../acme", "ACME", "a\x00b", "a' OR 1=1", "ä", "\udcff", "x" * 1000])
def test_an_unknown_name_is_not_found(store: Store, name: str):
    with pytest.raises(NotFound):
        store.get_tenant(name)
    with pytest.raises(NotFound):
        store.delete_tenant(name)


def test_a_bad_name_cannot_be_created(store: Store):
    with pytest.raises(InvalidInput, match="1-63 characters"):
        store.create_tenant("Not A Name")


def test_a_changed_configuration_reads_back(store: Store, acme: Tenant):
    config = validate_config({"languages": ["de", "en"], "shadow_rate": 0.5})
    assert store.update_config("acme", config).config == config
    assert store.get_tenant("acme").uid == acme.uid


def test_suspension_goes_both_ways_and_deletion_one_way(store: Store, acme: Tenant):
    assert store.set_state("acme", "suspended").state == "suspended"
    assert store.set_state("acme", "active").state == "active"
    assert store.set_state("acme", "deleting").state == "deleting"
    assert store.set_state("acme", "deleting").state == "deleting"
    with pytest.raises(Conflict, match="being deleted"):
        store.set_state("acme", "active")
    with pytest.raises(Conflict, match="being deleted"):
        store.update_config("acme", TenantConfig())


def test_deleting_leaves_no_row_of_the_tenant_and_every_row_of_others(store: Store, acme: Tenant):
    other = store.create_tenant("other")
    _fill(store, acme)
    _fill(store, other)
    reader = store.create_tenant("reader")
    for tenant in (acme, other):
        store.grant(tenant, "manuals", reader)
        store.grant(reader, "manuals", tenant)
        store.promote(tenant, "cheaper/treatment", {}, "operator")
    store.create_experiment("both", {}, 1.0, [acme, other])
    before = _counts(store)
    store.delete_tenant("acme")
    # Every table but the platform's own (experiments span tenants) holds the same number of rows for each of the two;
    # the reader has only itself.
    kept = {name: before[name] for name in ("platform", "experiments")} | {"tenants": before["tenants"] - 1}
    assert _counts(store) == {name: n / 2 for name, n in before.items()} | kept
    assert set(before) == set(METADATA.tables)
    assert all(before.values()), "the test must put a row into every table"
    assert store.get_tenant("other") == other


def test_deleting_leaves_no_bytes_in_the_files(tmp_path: Path):
    store = open_store(f"sqlite:///{tmp_path}/control.db", pepper=b"p")
    store.create_tenant("acme", TenantConfig(display_name="needle-in-the-file"))
    _fill(store, store.get_tenant("acme"))
    assert _files_holding(tmp_path, b"needle-in-the-file")
    store.delete_tenant("acme")
    assert _files_holding(tmp_path, b"needle-in-the-file") == []
    assert _files_holding(tmp_path, b"needle-in-feedback") == []
    store.close()


def test_a_recreated_tenant_is_another_one(store: Store, acme: Tenant):
    store.add_key(acme, "admin")
    store.delete_tenant("acme")
    again = store.create_tenant("acme")
    assert again.uid != acme.uid
    assert store.list_keys(again) == []
    with pytest.raises(NotFound):
        store.add_key(acme, "admin")


def test_of_many_threads_one_creates_the_tenant(store: Store):
    def create(_: int) -> str:
        try:
            return store.create_tenant("acme").uid
        except Conflict:
            return ""

    with ThreadPoolExecutor(12) as pool:
        winners = [uid for uid in pool.map(create, range(24)) if uid]
    assert winners == [store.get_tenant("acme").uid]


def test_of_two_processes_one_creates_the_tenant_in_a_database_both_find_empty(store_url: str):
    code = (
        "import sys\n"
        "from tenants.store import open_store\n"
        "from tenants.errors import Conflict\n"
        "store = open_store(sys.argv[1], pepper=b'p')\n"
        "try:\n    print(store.create_tenant('acme').uid)\n"
        "except Conflict:\n    print('conflict')\n"
        "store.close()\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, store_url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=600)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    store = open_store(store_url)
    assert sorted(outputs) == sorted(["conflict", store.get_tenant("acme").uid])
    store.close()


def _fill(store: Store, tenant: Tenant) -> None:
    store.add_key(tenant, "query")
    store.create_job(tenant, f"job_{tenant.name}", {"sources": ["a"]})
    store.add_job_errors(f"job_{tenant.name}", [{"document_id": "d", "code": "empty", "message": "no text"}])
    store.begin(tenant.uid, "key", "digest")
    store.begin("admin", f"key of {tenant.name}", "digest", tenant=tenant.name)
    store.add_feedback(tenant, "q_1", {"comment": "needle-in-feedback"})
    store.spend_today(tenant, "index_bytes", 5, None)
    store.add_calibration(tenant, {"lambda": 0.1}, {})
    store.change_drift(tenant, "standard/en", lambda _: {"certificate": "c_1", "alarmed_at": None})


def _counts(store: Store) -> dict[str, float]:
    with store._database.reading() as connection:
        names = set(inspect(connection).get_table_names()) - {"alembic_version"}
        return {n: float(connection.execute(select(func.count()).select_from(text(n))).scalar_one()) for n in names}


def _files_holding(folder: Path, needle: bytes) -> list[str]:
    return [file.name for file in folder.iterdir() if needle in file.read_bytes()]
