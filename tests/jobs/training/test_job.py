"""The whole job on a tiny corpus: real Ray, real MLflow, a model that the registry gives back."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from jobs.training.job import ALIAS, EXPERIMENT
from jobs.training.order import Order, check_lineage, checked
from jobs.training.reranker import main, parser, ranks, run_order
from jobs.training.sources import Sample
from services import models
from services.models import locate
from services.reranking.checkpoint import describe_cross_encoder
from services.settings import Settings
from tenants.errors import InvalidInput

ROOT = Path(__file__).parents[3]
QUICK = [
    "--steps",
    "30",
    "--peak",
    "3e-3",
    "--short-tokens",
    "48",
    "--long-tokens",
    "64",
    "--dev-questions",
    "12",
    "--dev-depth",
    "20",
]
ORDER = Order(budget_minutes=None, steps=30, peak=3e-3, short_tokens=48, long_tokens=64)


def run_entrypoint(data_dir, *arguments):
    command = [sys.executable, "-m", "jobs.training.reranker", "--data-dir", str(data_dir), "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.mark.cluster
@pytest.mark.filterwarnings("default")
def test_a_job_from_labels_to_the_registry_and_a_small_model_taught_by_it(labelled, tiny_base, tmp_path, monkeypatch):
    """Mined on a real Ray, tracked in a real MLflow, read back as the platform reads its models."""
    monkeypatch.setattr(models, "DOWNLOADS", tmp_path / "downloads")
    settings = Settings(data_dir=str(tmp_path / "data"))
    common = ["--data", str(labelled), "--work", str(tmp_path / "work"), *QUICK]
    made, said = run_entrypoint(settings.data_dir, *common, "--base", str(tiny_base))
    assert "topics: mining 96 questions in 96 documents" in said
    assert (made["registered"], made["alias"], made["steps"]) == ("models:/fathom-rerank-large/1", ALIAS, 30)
    assert made["dev"]["topics"]["0"] > 0.5
    folder = locate(f"models:/fathom-rerank-large@{ALIAS}", registry=settings.registry)
    card = (folder.path / "README.md").read_text()
    assert "digest of the sample" in card
    assert str(tmp_path) not in card

    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    run = client.get_run(made["run_id"])
    assert run.info.status == "FINISHED"
    assert client.get_experiment_by_name(EXPERIMENT).experiment_id == run.info.experiment_id
    assert {"loss", "pairs", "dev_ndcg_at_10.topics.0.5"} <= set(run.data.metrics)
    kept = {item.path for item in client.list_artifacts(made["run_id"])}
    assert {"training.png", "dev.png", "data.json", "fathom-rerank-large"} <= kept

    large = f"models:/fathom-rerank-large@{ALIAS}"
    small = ["--role", "small", "--base", large, "--teacher", large, "--layers", "1", "--no-register"]
    taught, said = run_entrypoint(settings.data_dir, *common, *small)
    assert "topics: mined before" in said
    assert taught["registered"] is None
    assert f"distilled from `{large}`" in (Path(taught["folder"]) / "README.md").read_text()
    assert describe_cross_encoder(taught["folder"]).config["num_hidden_layers"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ()}, "give --data FOLDER"),
        ({"tenants": ("acme",)}, "add --from-feedback"),
        ({"pooled": True}, "add --from-feedback"),
        ({"from_feedback": True}, "whose feedback"),
        ({"from_feedback": True, "pooled": True, "tenants": ("acme",)}, "leave --tenant out"),
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
        checked(dataclasses.replace(ORDER, **{"data": (Sample(tmp_path),), **change}))


def test_no_folder_is_one_sentence_and_exit_code_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FATHOM_MLFLOW_TRACKING_URI", "off")
    arguments = ["--data", str(tmp_path / "nowhere"), "--data-dir", str(tmp_path), "--work", str(tmp_path / "work")]
    assert main([*arguments, "--no-register"]) == 1
    assert "corpus.jsonl" in capsys.readouterr().err


def feedback_order(tmp_path, *tenants, **more):
    return dataclasses.replace(ORDER, from_feedback=True, tenants=tenants, work=tmp_path / "work", **more)


def test_a_model_of_one_tenants_feedback_bears_its_name_and_any_other_is_shared(tmp_path):
    own = feedback_order(tmp_path, "acme", role="small")
    assert (own.model_name, own.owner) == ("fathom-rerank-small-acme", "acme")
    assert own.checkpoints != own.work
    for shared in (ORDER, feedback_order(tmp_path, "acme", "other"), feedback_order(tmp_path, pooled=True)):
        assert (shared.model_name, shared.owner) == ("fathom-rerank-large", None)
        assert shared.checkpoints == shared.work


@pytest.mark.parametrize("place", ["base", "teacher"])
@pytest.mark.parametrize(
    "reference",
    [
        "models:/fathom-rerank-large-acme@champion",
        "models:/fathom-rerank-small-acme/3",
        "work/fathom-rerank-large-acme",
    ],
)
def test_a_tenants_own_model_teaches_nobody_else(tmp_path, place, reference):
    order = dataclasses.replace(ORDER, data=(Sample(tmp_path),), **{place: reference})
    check_lineage(order, {"acme"})
    for others in ((), ("other",)):
        with pytest.raises(InvalidInput, match="is acme's alone"):
            check_lineage(order, others)
    with pytest.raises(InvalidInput, match="is acme's alone"):
        run_order(order, Settings(data_dir=str(tmp_path), mlflow_tracking_uri="off"), print)


def test_shared_models_teach_everybody():
    for reference in ("models:/fathom-rerank-large@champion", "builtin-large", "org/model", "work/fathom-rerank-large"):
        check_lineage(dataclasses.replace(ORDER, base=reference, teacher=reference), ())


def test_a_tenant_without_an_index_is_refused(tmp_path):
    from services.control_plane import open_control_plane
    from tenants.config import TenantConfig

    settings = Settings(data_dir=str(tmp_path), mlflow_tracking_uri="off")
    store = open_control_plane(settings)
    store.create_tenant("acme", TenantConfig())
    store.close()
    with pytest.raises(InvalidInput, match="acme has no published index"):
        run_order(feedback_order(tmp_path, "acme"), settings, print)


def test_help_names_data_teacher_engine_and_budget():
    text = parser().format_help()
    flags = (
        "--data",
        "--teacher",
        "--engine",
        "--budget-minutes",
        "--from-feedback",
        "--tenant",
        "--pooled",
        "--resume",
    )
    assert all(flag in text for flag in flags)


def test_the_command_in_the_card_names_no_path_of_this_machine(tmp_path):
    order = dataclasses.replace(
        ORDER, data=(Sample(tmp_path / "set", 10, 5),), work=tmp_path, base=str(tmp_path / "base"), hard_ranks=(3, 40)
    )
    command = order.command()
    assert str(tmp_path) not in command
    assert "--data set:5:10 --base base" in command
    assert "--hard-ranks 3:40" in command
    again = parser().parse_args(command.removeprefix("python -m jobs.training.reranker ").split())
    assert (again.steps, again.peak, again.hard_ranks) == (30, 3e-3, "3:40")


def test_the_command_in_the_card_says_whose_feedback(tmp_path):
    command = feedback_order(tmp_path, "acme").command()
    again = parser().parse_args(command.removeprefix("python -m jobs.training.reranker ").split())
    assert (again.from_feedback, again.tenant, again.pooled) == (True, ["acme"], False)
    assert "--from-feedback --pooled" in feedback_order(tmp_path, pooled=True).command()


def test_a_shared_model_does_not_tell_whose_feedback_it_was(tmp_path):
    several = feedback_order(tmp_path, "acme", "globex")
    assert "acme" not in several.command()
    assert several.params()["tenants"] == 2
    assert "acme" not in str(several.params())
    assert feedback_order(tmp_path, "acme").params()["tenants"] == "acme"


def test_ranks_are_read_or_refused():
    assert ranks("3:40") == (3, 40)
    with pytest.raises(InvalidInput, match="FIRST:LAST"):
        ranks("3-40")
