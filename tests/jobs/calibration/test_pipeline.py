"""The whole job as a process: real index, real Ray Data, tiny cross-encoders of random weights, MLflow with plots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from jobs.indexing.job import IndexJob
from jobs.indexing.pipeline import run_index_job
from services.control_plane import open_control_plane
from services.settings import Settings
from tenants.config import TenantConfig
from tenants.ids import new_job_id
from tests.services.reranking.tiny import CONFIGS, save_tiny

ROOT = Path(__file__).parents[3]
QUESTIONS = 72
pytestmark = pytest.mark.cluster

WORDS = ("tower", "river", "bridge", "engine", "garden", "harbour", "library", "market")


def subject(number: int) -> str:
    return f"{WORDS[number % 8]} {WORDS[number // 8 % 8]} number {number}"


def prepared(tmp_path: Path, **rerankers: str) -> None:
    """A tenant with a hundred indexed documents, and labelled questions about most of them."""
    settings = Settings(data_dir=str(tmp_path / "data"), mlflow_tracking_uri="off")
    store = open_control_plane(settings)
    config = TenantConfig.model_validate({"rerankers": rerankers})
    scope = store.scope_of(store.create_tenant("acme", config), settings.root)
    rows = [{"_id": f"d{n}", "text": f"All about the {subject(n)} and its history."} for n in range(100)]
    source = tmp_path / "docs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_index_job(IndexJob(new_job_id(), (str(source),)), scope, store, settings)
    store.close()
    asked = [{"_id": f"q{n}", "text": f"history of the {subject(n)}"} for n in range(QUESTIONS)]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(QUESTIONS))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)


def calibrated(tmp_path: Path, *more: str) -> Any:
    command = [sys.executable, "-m", "jobs.calibration", "--tenant", "acme", "--data-dir", str(tmp_path / "data")]
    files = ["--queries", str(tmp_path / "queries.jsonl"), "--qrels", str(tmp_path / "qrels.tsv"), "--json"]
    values = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [*command, *files, *more], env=values, cwd=ROOT, capture_output=True, text=True, check=False, timeout=800
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout), ran.stderr


def test_full_reranks_on_ray_are_replayed_and_tracked(tmp_path: Path):
    model = str(save_tiny(tmp_path / "model", CONFIGS["bert"]))
    prepared(tmp_path, small=model, large=model)
    report, shown = calibrated(tmp_path)
    assert (report["questions"], report["asked_from"], report["source"]) == (QUESTIONS, "labels", "pooled")
    assert "300 are the least" in report["message"]
    assert 0 <= report["ece"] <= 1
    assert report["pairs"]["full"] == 100.0
    assert f"rerank: {QUESTIONS}/{QUESTIONS} questions" in shown
    engine = create_engine(f"sqlite:///{tmp_path}/data/mlflow.db")
    with engine.connect() as connection:
        status, run_id = connection.execute(text("select status, run_uuid from runs")).one()
    engine.dispose()
    assert (status, run_id) == ("FINISHED", report["run_id"])
    kept = {path.name for path in (tmp_path / "data" / "mlartifacts").rglob("*.*")}
    assert {"risk.png", "cost.png", "calibration.png", "calibration.json", "profile.json"} <= kept
    tracked = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("mlflow.db*"))
    assert b"history of" not in tracked
    # A few questions need no Ray, and give the same kind of report.
    few, _ = calibrated(tmp_path, "--limit", "6")
    assert (few["questions"], set(few)) == (6, set(report))
