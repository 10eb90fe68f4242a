"""An experiment's life on a real platform: Ray Serve, MLflow, a registered cross-encoder that nobody has loaded."""

import time

import pytest
from mlflow import MlflowClient

from services.audit.replay import replay
from services.models import SHIPPED
from services.reranking.checkpoint import complete_folder

pytestmark = pytest.mark.cluster

NAME = "other-small"
MODEL = "a-cross-encoder-of-the-test"
TEXTS = {
    "rivers.md": "# Rivers\n\nThe Rhine flows through Basel and reaches the sea at Rotterdam.\n",
    "lakes.md": "# Lakes\n\nLake Constance lies between three countries and feeds the Rhine.\n",
    "towns.md": "# Towns\n\nBasel stands where the Rhine bends north; its old town is on a hill.\n",
}
LIMIT_S = 60


@pytest.fixture
def tenant(platform, tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    platform.cli("tenant", "delete", "ab-life", "--yes")
    platform.cli.ok("tenant", "create", "ab-life")
    platform.cli.ok("index", "ab-life", str(tmp_path))
    yield "ab-life"
    platform.cli("ab", "stop", NAME)
    platform.cli("tenant", "delete", "ab-life", "--yes")


@pytest.fixture
def registered(platform, tmp_path):
    """The shipped small cross-encoder as version 1 of a registered model."""
    uri = platform.cli.ok("up")["mlflow"]
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    folder = complete_folder(SHIPPED["builtin-small"], tmp_path / "model")
    run_id = client.create_run("0").info.run_id
    client.log_artifacts(run_id, str(folder), "model")
    client.create_registered_model(MODEL)
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    yield client, client.create_model_version(MODEL, source, run_id=run_id).version
    client.delete_registered_model(MODEL)


def ask(platform, tenant, wanted, text="Where does the Rhine flow?"):
    """The first answer whose variant is `wanted`; a promotion is live once its models are warm."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        answer = platform.cli.ok("search", tenant, text, "--rerank", "always")
        if answer["variant"] == wanted:
            return answer
    raise AssertionError(f"no answer by {wanted} within {LIMIT_S} s, the last was by {answer['variant']}")


def test_created_tried_promoted_and_rolled_back(platform, tenant, registered):
    client, version = registered
    cli, arm = platform.cli, f'other={{"rerankers": {{"small": "models:/{MODEL}/{version}"}}}}'
    made = cli.ok("ab", "create", NAME, "--tenant", tenant, "--arm", arm, "--unit", "request")
    assert made["state"] == "running"
    assert cli.ok("ab", "create", "second", "--tenant", tenant, "--arm", arm, "--dry-run")["state"] == "planned"
    for arm_name in ("control", "other"):
        answer = ask(platform, tenant, f"{NAME}/{arm_name}")
        record = cli.ok("audit", tenant, answer["query_id"])
        assert record["variant"]["arm"] == arm_name
        assert replay(record).identical
    shown = cli.ok("ab", "show", NAME)
    assert sum(shown["analysis"]["questions"].values()) >= 2
    assert NAME in {one["name"] for one in cli.ok("ab", "list")}

    promoted = cli.ok("ab", "promote", NAME)
    assert promoted["outcome"]["arm"] == "other"
    ask(platform, tenant, f"{NAME}/other")
    assert client.get_model_version_by_alias(MODEL, "champion").version == version
    began = time.monotonic()
    cli.ok("ab", "rollback", NAME)
    ask(platform, tenant, "default")
    assert time.monotonic() - began < LIMIT_S

    assert "champion" not in client.get_registered_model(MODEL).aliases  # it had none before
    told = client.get_registered_model(f"fathom-variant-{NAME}")
    runs = client.search_runs([client.get_experiment_by_name(f"fathom/ab/{NAME}").experiment_id])
    assert set(told.aliases) == {"champion", "challenger"}
    assert {run.info.run_name for run in runs} == {NAME, "control", "other"}
    parent = next(run for run in runs if run.info.run_name == NAME)
    assert "report.html" in {one.path for one in client.list_artifacts(parent.info.run_id)}
    assert cli.ok("audit", tenant, answer["query_id"], "--verify-chain")["chain"]["intact"]
