"""The whole job on a tiny corpus: real Ray, real MLflow, a model that the registry gives back."""

import dataclasses

import pytest
from mlflow import MlflowClient

from jobs.training.job import ALIAS, EXPERIMENT, train
from jobs.training.order import Order, checked
from jobs.training.reranker import main, parser, ranks, run_order
from jobs.training.sources import Sample
from services import models
from services.models import locate
from services.settings import Settings
from tenants.errors import InvalidInput

ORDER = Order(budget_minutes=None, steps=30, peak=3e-3, short_tokens=48, long_tokens=64, dev_questions=12, dev_depth=20)


@pytest.mark.cluster
@pytest.mark.filterwarnings("default")
def test_a_job_from_labels_to_the_registry_and_a_small_model_taught_by_it(labelled, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "DOWNLOADS", tmp_path / "downloads")
    settings = Settings(data_dir=str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    said: list[str] = []
    order = dataclasses.replace(ORDER, data=(Sample(labelled),), base=str(tiny_base), work=tmp_path / "large")
    made = train(order, settings, said.append)
    assert made["registered"] == "models:/fathom-rerank-large/1"
    assert made["steps"] == 30
    assert set(made["dev"]) == {"topics"}
    assert made["dev"]["topics"]["0"] > 0.5
    folder = locate("models:/fathom-rerank-large@challenger", registry=settings.registry)
    assert folder.revision == locate(made["folder"]).revision
    assert "digest of the sample" in (folder.path / "README.md").read_text()

    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    run = client.get_run(made["run_id"])
    assert run.info.status == "FINISHED"
    assert client.get_experiment_by_name(EXPERIMENT).experiment_id == run.info.experiment_id
    assert {"loss", "pairs", "dev_ndcg_at_10.topics.0.5"} <= set(run.data.metrics)
    kept = {item.path for item in client.list_artifacts(made["run_id"])}
    assert {"training.png", "dev.png", "data.json", "fathom-rerank-large"} <= kept

    small = dataclasses.replace(
        order,
        role="small",
        base=f"models:/fathom-rerank-large@{ALIAS}",
        teacher=f"models:/fathom-rerank-large@{ALIAS}",
        layers=1,
        work=tmp_path / "small",
        register=False,
    )
    (tmp_path / "small").mkdir()
    (tmp_path / "large" / "mined").rename(tmp_path / "small" / "mined")
    taught = train(small, settings, said.append)
    assert "topics: mined before" in said
    assert taught["registered"] is None
    assert "distilled from" in (locate(taught["folder"]).path / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ()}, "give --data FOLDER"),
        ({"budget_minutes": None, "steps": None}, "give a budget"),
        ({"budget_minutes": -1.0}, "more than nothing"),
        ({"steps": 0}, "at least one step"),
        ({"layers": 0}, "at least one layer"),
        ({"hard_ranks": (9, 5)}, "FIRST:LAST"),
        ({"hard": 0, "medium": 0, "random": 0}, "needs a negative"),
        ({"short_tokens": 300, "long_tokens": 200}, "short ≤ long"),
        ({"mix_base": 1.0}, "share"),
        ({"peak": 0.0}, "learning rate"),
        ({"groups": 0}, "one group"),
    ],
)
def test_orders_that_cannot_be_are_refused_before_anything_is_loaded(tmp_path, change, message):
    with pytest.raises(InvalidInput, match=message):
        checked(dataclasses.replace(ORDER, data=(Sample(tmp_path),), **change))


def test_no_folder_is_one_sentence_and_exit_code_one(tmp_path, capsys):
    arguments = ["--data", str(tmp_path / "nowhere"), "--data-dir", str(tmp_path), "--work", str(tmp_path / "work")]
    assert main([*arguments, "--no-register"]) == 1
    assert "corpus.jsonl" in capsys.readouterr().err


def test_a_tenant_without_an_index_is_refused(tmp_path):
    from services.control_plane import open_control_plane
    from tenants.config import TenantConfig

    settings = Settings(data_dir=str(tmp_path), mlflow_tracking_uri="off")
    store = open_control_plane(settings)
    store.create_tenant("acme", TenantConfig())
    store.close()
    with pytest.raises(InvalidInput, match="acme has no published index"):
        run_order(dataclasses.replace(ORDER, tenant="acme", work=tmp_path / "work"), settings, print)


def test_help_names_data_teacher_engine_and_budget():
    text = parser().format_help()
    assert all(flag in text for flag in ("--data", "--teacher", "--engine", "--budget-minutes", "--tenant", "--resume"))


def test_ranks_are_read_or_refused():
    assert ranks("3:40") == (3, 40)
    with pytest.raises(InvalidInput, match="FIRST:LAST"):
        ranks("3-40")
