"""The cluster's files: valid to Ray's own Serve schema, to KubeRay's fields, and to our settings."""

import importlib.metadata
import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from jobs.indexing.__main__ import _parser
from services.settings import GeneratorModel, Settings
from tests.cluster.kuberay import RAY_JOB, RAY_SERVICE

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = {"rayservice.yaml": RAY_SERVICE, "rayjob-indexing.yaml": RAY_JOB}


def load(name):
    return yaml.safe_load((ROOT / "cluster" / name).read_text(encoding="utf-8"))


def serve_config():
    return load("serve.yaml")


def clusters():
    return {
        "rayservice.yaml": load("rayservice.yaml")["spec"]["rayClusterConfig"],
        "rayjob-indexing.yaml": load("rayjob-indexing.yaml")["spec"]["rayClusterSpec"],
    }


def containers(cluster):
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_has_kuberay_s_shape(name):
    jsonschema.Draft202012Validator(MANIFESTS[name]).validate(load(name))


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_schema_is_closed(name):
    document = load(name) | {"sepc": {}}
    with pytest.raises(jsonschema.ValidationError, match="sepc"):
        jsonschema.Draft202012Validator(MANIFESTS[name]).validate(document)


# Ray 2.60 itself uses a deprecated spelling of pydantic when its schema is imported.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_the_serve_config_is_ray_s():
    from ray.serve.schema import ServeDeploySchema

    parsed = ServeDeploySchema.model_validate(serve_config())
    assert [app.import_path for app in parsed.applications] == ["cluster.app:build"]


def test_the_serve_config_s_arguments_are_our_settings():
    arguments = serve_config()["applications"][0]["args"]
    assert set(arguments) <= set(Settings.model_fields)
    settings = Settings(**arguments)
    assert settings.topology == "split"
    assert settings.gateway.min < settings.gateway.max


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_the_config_with_a_generator_is_the_same_platform_with_one():
    from ray.serve.schema import ServeDeploySchema

    with_generator = load("serve-vllm.yaml")
    ServeDeploySchema.model_validate(with_generator)
    platform, generator = with_generator["applications"]
    name = generator["args"].pop("name")
    named = GeneratorModel(**generator["args"])
    assert (generator["name"], generator["route_prefix"]) == (f"generator-{name}", None)
    assert Settings(**platform["args"]).generators[name].model == named.model
    del platform["args"]["generators"]
    assert with_generator | {"applications": [platform]} == serve_config()


def test_the_rayservice_runs_the_serve_config():
    assert yaml.safe_load(load("rayservice.yaml")["spec"]["serveConfigV2"]) == serve_config()


@pytest.mark.parametrize("name", MANIFESTS)
def test_ray_s_version_is_the_installed_one(name):
    assert clusters()[name]["rayVersion"] == importlib.metadata.version("ray")


@pytest.mark.parametrize("name", MANIFESTS)
def test_ray_asks_for_its_token(name):
    assert clusters()[name]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_setting_in_the_environment_exists_and_no_secret_is_written_down(name):
    for container in containers(clusters()[name]):
        for variable in container["env"]:
            setting = variable["name"].removeprefix("FATHOM_").lower()
            assert not variable["name"].startswith("FATHOM_") or setting in Settings.model_fields
            secret = re.search(r"KEY|PEPPER|DATABASE_URL|SECRET|TOKEN", variable["name"])
            assert bool(secret) == ("valueFrom" in variable)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_image_is_this_version(name):
    images = {container["image"] for container in containers(clusters()[name])}
    assert images == {f"fathom:{importlib.metadata.version('fathom')}"}


def test_the_job_s_entrypoint_is_one_that_the_job_takes():
    words = shlex.split(load("rayjob-indexing.yaml")["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "jobs.indexing"]
    options = _parser().parse_args(words[3:])
    assert options.tenant
    assert options.source
    assert options.job_id


def test_the_image_copies_every_room_and_pins_torch_as_the_constraints_do():
    text = (ROOT / "cluster" / "images" / "Dockerfile").read_text(encoding="utf-8")
    for room in ("tenants", "services", "jobs", "cluster"):
        assert f"COPY {room} {room}" in text
    pinned = re.search(r"^torch==([\d.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"TORCH_VERSION={pinned.group(1)}" in text


def test_the_dashboard_asks_for_every_metric_that_we_count():
    dashboard = json.loads((ROOT / "cluster" / "dashboards" / "fathom.json").read_text(encoding="utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_(fathom_\w+?)(?:_bucket|_sum|_count)?[{\[]", target["expr"])
    }
    sources = [ROOT / "services" / part / "deployment.py" for part in ("gateway", "reranking")]
    counted = [re.findall(r'"(fathom_\w+)"', source.read_text(encoding="utf-8")) for source in sources]
    assert asked == {name for names in counted for name in names}
