"""The operator's day on a running platform, every --json document with what the contract promises in it."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.cluster

KEYS = "# Keys\n\nTo rotate a key, create a new one, switch the clients over, then revoke the old one.\n"
PORTS = "# Ports\n\nThe platform listens on port 8000 of the loopback interface unless another port is chosen.\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "keys.md").write_text(KEYS)
    (tmp_path / "ports.md").write_text(PORTS)
    return tmp_path


@pytest.fixture
def tenant(platform, request):
    """A tenant of this test, deleted after it."""
    name = "cli-" + "".join(char if char.isalnum() else "-" for char in request.node.name)[-50:].strip("-").lower()
    platform.cli("tenant", "delete", name, "--yes")
    made = platform.cli.ok("tenant", "create", name)
    assert {"tenant", "api_key"} <= set(made)
    yield name
    platform.cli("tenant", "delete", name, "--yes")


def test_up_again_is_the_same_platform(platform):
    again = platform.cli.ok("up")
    assert {"url", "console", "dashboard", "mlflow", "data_dir"} <= set(again)
    assert (again["url"], again["data_dir"]) == (platform.url, str(platform.data_dir))


def test_status_lists_every_component(platform):
    report = platform.cli.ok("status")
    assert report["ready"] is True
    assert {"gateway", "ray", "mlflow"} <= {part["name"] for part in report["components"]}


def test_from_the_first_document_to_the_audit(platform, tenant, folder):
    cli = platform.cli
    first = cli.ok("index", tenant, str(folder))
    assert {"job_id", "state", "index_version", "documents", "chunks", "tokens", "seconds", "errors"} <= set(first)
    assert first["state"] == "succeeded"
    assert first["documents"] == {"new": 2, "changed": 0, "unchanged": 0, "deleted": 0, "failed": 0}
    assert cli.ok("job", first["job_id"])["documents"]["new"] == 2

    again = cli.ok("index", tenant, str(folder))
    assert again["documents"]["unchanged"] == 2
    assert again["chunks"] == 0

    found = cli.ok("search", tenant, "how to rotate a key", "--top-k", "1", "--rerank", "always")
    assert found["results"][0]["document_id"] == "keys.md"
    spent = found["rerank"]  # the cross-encoder may still be built for a machine that never had it
    assert (spent["decision"], spent["pairs"]) in (("full", spent["candidates"]), ("unavailable", 0))
    assert cli.ok("audit", tenant, found["query_id"], "--replay")["replay"]["identical"] is True

    answer = cli.ok("ask", tenant, "How do I rotate a key?")
    assert answer["grounded"] == "full"
    assert all(citation["quote"] in KEYS for citation in answer["citations"])
    record = cli.ok("audit", tenant, answer["query_id"], "--verify-chain")
    assert record["chain"]["intact"] is True

    (folder / "ports.md").unlink()
    synced = cli("index", tenant, str(folder), "--sync", "--json")
    assert synced.code == 1
    assert synced.json["error"]["code"] == "needs_confirmation"
    assert cli.ok("index", tenant, str(folder), "--sync", "--yes")["documents"]["deleted"] == 1
    assert len(cli.ok("versions", tenant)["versions"]) >= 2
    rolled = cli.ok("rollback", tenant)
    assert cli.ok("search", tenant, "port", "--top-k", "1")["results"][0]["document_id"] == "ports.md"
    erased = cli.ok("erase", tenant, "ports.md")
    assert erased["index_version"] > rolled["index_version"]
    assert [hit["document_id"] for hit in cli.ok("search", tenant, "port")["results"]] == ["keys.md"]


def test_a_dry_run_shows_the_plan_and_changes_nothing(platform, tenant, folder):
    plan = platform.cli.ok("index", tenant, str(folder), "--dry-run")
    assert plan["documents"]["new"] == 2
    assert platform.cli.ok("versions", tenant)["versions"] == []


def test_a_job_through_ray_s_jobs_api_is_the_same_job(platform, tenant, folder):
    dashboard = platform.cli.ok("up")["dashboard"]
    done = platform.cli.ok("index", tenant, str(folder), "--address", dashboard)
    assert done["state"] == "succeeded"
    assert done["documents"]["new"] == 2
    assert platform.cli.ok("search", tenant, "port", "--top-k", "1")["results"]


def test_the_stream_prints_the_answer_and_its_citations(platform, tenant, folder):
    platform.cli.ok("index", tenant, str(folder))
    ran = platform.cli("ask", tenant, "Which port does it listen on?", "--stream")
    assert ran.code == 0
    assert "port 8000" in ran.out
    assert "[1] ports.md" in ran.out


def test_evaluation_reports_what_the_contract_names(platform, tenant, folder):
    platform.cli.ok("index", tenant, str(folder))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "how to rotate a key"}) + "\n")
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\tkeys.md\t1\n")
    files = ("--queries", str(folder / "queries.jsonl"), "--qrels", str(folder / "qrels.tsv"))
    report = platform.cli.ok("eval", tenant, *files)
    assert set(report["metrics"]) == {"ndcg@10", "recall@100", "mrr@10", "map@100"}
    assert report["metrics"]["ndcg@10"] == 1.0
    assert {"queries", "pairs_per_query", "latency_ms", "run_id"} <= set(report)


def test_ctrl_c_cancels_a_job_and_resume_finishes_it(platform, tenant, tmp_path):
    rows = [
        {"id": f"d{number}", "text": f"Document number {number} speaks of topic {number % 7}. " * 40}
        for number in range(3_000)
    ]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    listening = ["env", "--default-signal=INT"]  # a suite that a script started in the background ignores Ctrl-C
    command = [sys.executable, "-m", "cluster.cli", "index", tenant, str(tmp_path / "many.jsonl"), "--json"]
    process = subprocess.Popen(
        [*listening, *command],
        env=platform.cli.environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            job = running_job(platform, tenant)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 130, f"{out}\n{err}"
    assert json.loads(out)["error"]["code"] == "cancelled"
    assert "Traceback" not in err
    assert platform.cli.ok("job", job)["state"] == "cancelled"
    assert platform.cli.ok("versions", tenant)["versions"] == []
    small = [json.dumps(row) + "\n" for row in rows[:3]]
    (tmp_path / "few.jsonl").write_text("".join(small))
    assert platform.cli.ok("index", tenant, str(tmp_path / "few.jsonl"))["documents"]["new"] == 3


def running_job(platform, tenant, limit_s=600):
    """The tenant's job once it has passed planning."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        for job in platform.cli.ok("jobs", tenant)["jobs"]:
            if job["state"] == "running" and job["stage"] not in ("", "list"):
                return job["job_id"]
        time.sleep(0.2)
    raise AssertionError("the job never started")
