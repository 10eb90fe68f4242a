"""The chain on a real Ray cluster, through the entrypoint of `ray job submit`, tracked in a real MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from jobs.maintenance.verify import verify
from services.control_plane import open_control_plane
from services.settings import Settings
from tenants.config import TenantConfig
from tenants.scope import TenantScope

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.cluster


def run_entrypoint(data_dir: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.indexing", "--tenant", "acme", "--data-dir", str(data_dir), *arguments]
    values = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=values, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def scope(tmp_path: Path) -> TenantScope:
    settings = Settings(data_dir=str(tmp_path / "data"))
    store = open_control_plane(settings)
    tenant = store.create_tenant("acme", TenantConfig())
    store.close()
    return TenantScope(tenant.name, tenant.uid, tenant.config, settings.root)


def test_job_on_ray_is_published_tracked_and_repeated_for_nothing(scope, tmp_path):
    source = tmp_path / "a.jsonl"
    rows = [{"_id": f"d{number}", "text": f"Text of document number {number}."} for number in range(600)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_entrypoint(tmp_path / "data", "--source", str(source), "--json", "--job-id", "job-ray")
    assert result.returncode == 0, result.stderr[-3000:]
    document = json.loads(result.stdout)
    assert (document["state"], document["index_version"], document["documents"]["new"]) == ("succeeded", 1, 600)
    assert document["errors"] == []
    assert verify(scope).documents == 600
    assert "600/600 documents" in result.stderr
    engine = create_engine(f"sqlite:///{tmp_path}/data/mlflow.db")
    with engine.connect() as connection:
        status, run_id = connection.execute(text("select status, run_uuid from runs")).one()
        metrics = dict(connection.execute(text("select key, value from latest_metrics")).all())
    engine.dispose()
    assert (status, run_id) == ("FINISHED", document["run_id"])
    assert metrics["documents_new"] == 600
    assert metrics["seconds_embed"] > 0
    assert list((tmp_path / "data" / "mlartifacts").rglob("stages.png"))
    tracked = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("mlflow.db*"))
    assert b"Text of document" not in tracked
    again = run_entrypoint(tmp_path / "data", "--source", str(source), "--json", FATHOM_MLFLOW_TRACKING_URI="off")
    assert json.loads(again.stdout)["documents"]["unchanged"] == 600


def test_wrong_use_is_one_sentence(scope, tmp_path):
    result = run_entrypoint(tmp_path / "data", "--source", str(tmp_path / "none"), "--json")
    assert result.returncode == 1
    assert "no file or folder" in json.loads(result.stdout)["error"]["detail"]
    assert "Traceback" not in result.stderr
