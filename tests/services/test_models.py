"""References become folders, or an error that says what to do."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services import models
from services.models import BUILTIN, locate, pinned
from tenants.errors import InvalidInput, Unavailable

ROOT = Path(__file__).resolve().parents[2]


def small_model(folder: Path, weights: bytes = b"w") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_builtin_is_a_complete_folder() -> None:
    found = locate(BUILTIN)
    assert (found.path / "model.safetensors").is_file()
    assert found == locate(BUILTIN)


def test_folder_and_its_copy_have_one_revision(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "one")
    (folder / "README.md").write_text("not part of it")
    assert locate(str(folder)).revision == locate(str(small_model(tmp_path / "two"))).revision
    assert locate(str(folder)).revision != locate(str(small_model(tmp_path / "three", b"v"))).revision


@pytest.mark.parametrize("reference", ["/no/such/folder", "./nor/this", "no spaces allowed", "../up"])
def test_what_names_nothing_is_refused(reference: str) -> None:
    with pytest.raises(InvalidInput, match="give builtin, a folder, a Hugging Face id or models:/name@alias") as caught:
        locate(reference)
    assert caught.value.errors[0].pointer == "/embedder"


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no config"):
        locate(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model")
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="safetensors"):
        locate(str(folder))


def test_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="give its folder"):
        locate("no-such-owner/no-such-model")


@pytest.mark.filterwarnings("default")
def test_registered_model_is_found_by_its_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "DOWNLOADS", tmp_path / "downloads")
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("fathom-embedder")
    source = small_model(tmp_path / "artefact" / "model").parent
    version = client.create_model_version("fathom-embedder", source=f"file://{source}")
    client.set_registered_model_alias("fathom-embedder", "champion", version.version)
    found = locate("models:/fathom-embedder@champion", registry=uri)
    assert found.revision == locate(str(source / "model")).revision
    assert pinned("models:/fathom-embedder@champion", registry=uri) == "models:/fathom-embedder/1"
    assert locate("models:/fathom-embedder/1", registry=uri) == found
    assert len(list((tmp_path / "downloads").iterdir())) == 1
    with pytest.raises(InvalidInput, match="check the name and the alias"):
        locate("models:/fathom-embedder@nobody", registry=uri)


def test_what_does_not_move_is_pinned_as_it_is(tmp_path: Path) -> None:
    for reference in (BUILTIN, str(tmp_path), "owner/name@0123abc"):
        assert pinned(reference) == reference


def test_threads_that_need_mlflow_at_once_both_get_it() -> None:
    # In a process of its own: MLflow is loaded once per process, and only the first time can go wrong.
    program = (
        "import threading\n"
        "from services.models import load_mlflow\n"
        "done = []\n"
        "def use(name):\n"
        "    load_mlflow()\n"
        "    __import__(name, fromlist=['x'])\n"
        "    done.append(name)\n"
        "threads = [threading.Thread(target=use, args=(name,)) for name in ('mlflow.artifacts', 'mlflow.exceptions')]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "assert len(done) == 2, done\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
