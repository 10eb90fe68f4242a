"""From clicks on a published index to a tenant's own registered model: real index, real audit, real Ray and MLflow."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from jobs.indexing.job import IndexJob
from jobs.indexing.pipeline import run_index_job
from jobs.training.reranker import main
from jobs.training.searching import Searcher
from services import models
from services.audit.log import open_audit_log
from services.contracts import AuditRecord, AuditText
from services.control_plane import open_control_plane
from services.models import locate
from services.settings import Settings
from tenants.config import TenantConfig
from tenants.corpus.release import pinned
from tenants.ids import new_job_id

ROOT = Path(__file__).parents[3]
QUICK = ["--steps", "12", "--peak", "3e-3", "--short-tokens", "48", "--long-tokens", "64", "--json"]
QUICK += ["--dev-questions", "12", "--dev-depth", "20"]
WORDS = ("tower", "river", "bridge", "engine", "garden", "harbour", "library", "market")
QUESTIONS = [f"history of the {WORDS[n % 8]} {WORDS[n // 8 % 8]}" for n in range(64)]
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("default")]
_numbers = count()


def index_tenant(tmp_path, store, settings, name):
    tenant = store.create_tenant(name, TenantConfig.model_validate({"feedback": {"pool": True}}))
    scope = store.scope_of(tenant, settings.root)
    rows = [
        {"_id": f"{name}{n}", "text": f"{name} on the {QUESTIONS[n]} and on the {WORDS[n % 7]}."} for n in range(64)
    ]
    source = tmp_path / f"{name}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_index_job(IndexJob(new_job_id(), (str(source),)), scope, store, settings)
    return pinned(scope)


def click_around(scope, store, settings, seed):
    """Every question is shown three times, its ten best in an order that changes; users click the very best of them."""
    rng, searcher = np.random.default_rng(seed), Searcher(scope, settings)
    found = searcher.search(range(len(QUESTIONS)), QUESTIONS).to_pylist()
    searcher.close()
    asked = [(text, row["chunks"]) for text, row in zip(QUESTIONS, found, strict=True) for _ in range(3)]
    records, clicks = [], []
    for text, chunks in asked:
        query = f"q_{next(_numbers):032x}"
        shown = [chunks[place] for place in rng.permutation(10)]
        facts = {"query_id": query, "state": "complete", "evidence": shown, "answer": None}
        records.append(AuditRecord(query, 0, facts, (AuditText("query", text),)))
        clicks += [(query, chunks[0])] if rng.random() < (shown.index(chunks[0]) + 1) ** -0.5 else []
    log = open_audit_log(settings.audit_url)

    async def append_all():
        await asyncio.gather(*(log.append(scope, record) for record in records))

    asyncio.run(append_all())
    for query, chunk in clicks:
        store.add_feedback(scope, query, {"clicked": [chunk, "c_of_nobody"]})


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("platform")
    settings = Settings(data_dir=str(tmp_path / "data"))
    store = open_control_plane(settings)
    scopes = {name: index_tenant(tmp_path, store, settings, name) for name in ("acme", "globex")}
    for seed, scope in enumerate(scopes.values()):
        click_around(scope, store, settings, seed)
    store.close()
    return settings, scopes


def train(settings, work, *arguments):
    command = [sys.executable, "-m", "jobs.training.reranker", "--data-dir", settings.data_dir, "--work", str(work)]
    done = subprocess.run(
        [*command, *QUICK, "--from-feedback", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


def test_a_tenants_clicks_become_its_own_model_which_can_be_continued(platform, tiny_base, tmp_path, monkeypatch):
    settings, _ = platform
    monkeypatch.setattr(models, "DOWNLOADS", tmp_path / "downloads")
    made, said = train(settings, tmp_path, "--tenant", "acme", "--base", str(tiny_base))
    assert (made["registered"], made["tenant"]) == ("models:/fathom-rerank-large-acme/1", "acme")
    assert "questions with feedback; rank 5 is looked at 0." in said
    assert list(made["dev"]) == ["feedback-acme"]
    own = "models:/fathom-rerank-large-acme@challenger"
    card = (locate(own, registry=settings.registry).path / "README.md").read_text()
    assert "feedback of the tenant `acme`" in card
    assert "history of" not in card
    again, _ = train(settings, tmp_path, "--tenant", "acme", "--base", own)
    assert again["registered"] == "models:/fathom-rerank-large-acme/2"
    tracked = b"".join(path.read_bytes() for path in Path(settings.data_dir).glob("mlflow.db*"))
    assert b"history of" not in tracked


def test_another_tenants_model_is_no_base(platform, tmp_path, capsys):
    settings, _ = platform
    options = ["--data-dir", settings.data_dir, "--work", str(tmp_path), "--from-feedback", "--tenant", "globex"]
    assert main([*options, "--base", "models:/fathom-rerank-large-acme@challenger"]) == 1
    assert "is acme's alone" in capsys.readouterr().err


def test_pooled_feedback_trains_a_shared_model_that_names_no_tenant(platform, tiny_base, tmp_path):
    settings, scopes = platform
    made, _ = train(settings, tmp_path, "--pooled", "--base", str(tiny_base), "--no-register")
    assert made["tenant"] is None
    assert set(made["dev"]) == {f"feedback-{scope.uid}" for scope in scopes.values()}
    card = (tmp_path / "fathom-rerank-large" / "README.md").read_text()
    assert not any(name in card for name in scopes)


def test_many_questions_are_searched_on_ray_and_find_the_same(platform):
    settings, scopes = platform
    script = """
import json, pickle, sys
from jobs.training.pipeline import search_on_ray
from jobs.training.searching import Searcher
scope, settings, texts = pickle.load(sys.stdin.buffer)
ray_table = search_on_ray(texts, scope, settings)
here = Searcher(scope, settings).search(range(len(texts)), texts)
print(json.dumps([table.to_pylist() for table in (ray_table, here)]))
"""
    given = pickle.dumps((scopes["acme"], settings, QUESTIONS * 3))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    on_ray, here = json.loads(done.stdout)
    assert [row["number"] for row in on_ray] == list(range(len(QUESTIONS) * 3))
    assert [row["chunks"] for row in on_ray] == [row["chunks"] for row in here]
    np.testing.assert_allclose([row["fused"] for row in on_ray], [row["fused"] for row in here], atol=1e-5)
    assert told(on_ray) == told(here)
    assert None not in told(here).values()


def told(rows):
    """{chunk: its text}."""
    pairs = ((chunk, text) for row in rows for chunk, text in zip(row["chunks"], row["texts"], strict=True))
    return {chunk: text for chunk, text in pairs if text is not None}
