"""Runs `fathom ab compare` in this process: both variants through the line that serves, on the data dir's own corpora.

One retriever and one scorer serve both sides. The scorer remembers no logits here, in memory or in Redis: what one
side has paid for, the other would get for nothing, and pairs and milliseconds could not be compared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.cli.attaching import attached, generating
from jobs.evaluation.datasets import Dataset, load_dataset
from jobs.evaluation.pipeline import Plan, Unrecorded
from jobs.experiments.compare import Side, compare, page_of, scope_of
from services.control_plane import open_control_plane
from services.evidence.extract import ExtractiveAnswerer
from services.experiments.serving import Variants
from services.experiments.spec import parse_spec
from services.query import Steps
from services.reranking.adaptive import AdaptiveReranker
from services.reranking.local import Uncounted, open_scorer
from services.retrieval.local import open_retriever
from services.settings import Settings
from tenants.errors import InvalidInput
from tenants.ids import tenant_name
from tenants.scope import TenantScope

CHAMPION = "champion"
LINE_EVERY_S = 5.0
_FILES = (".yaml", ".yml", ".json")

SpecOf = Callable[[str], Mapping[str, Any]]  # an experiment's name → its spec; raises `NotFound`


def run_comparison(
    settings: Settings,
    names: tuple[str, str],
    tenant: str,
    queries: Path,
    qrels: Path,
    plan: Plan,
    report: Path | None = None,
) -> dict[str, Any]:
    """The document of jobs/experiments/compare.py, with the texts of the questions that it shows.

    `report` is where the page is written. Raises `InvalidInput` for a missing file or a name that is no variant.
    """
    for path in (queries, qrels):
        if not path.is_file():
            raise InvalidInput(f"there is no file {path}; check the path")
    if report is not None and not report.parent.is_dir():
        raise InvalidInput(f"there is no folder {report.parent}; make it first")
    settings = forgetful(attached(settings))
    dataset = load_dataset(queries, qrels)
    store = open_control_plane(settings)
    scope = Variants().champion(store.scope_of(store.get_tenant(tenant_name(tenant)), settings.root))
    first, second = (resolve(name, lambda experiment: store.get_experiment(experiment).spec) for name in names)
    document = _compared(settings, dataset, scope, (first, second), plan)
    shown = {row["query"]: dataset.queries[row["query"]] for row in (*document["gains"], *document["losses"])}
    if report is not None:
        report.write_text(page_of(document, shown), encoding="utf-8")
    told = {part: [row | {"text": shown[row["query"]]} for row in document[part]] for part in ("gains", "losses")}
    return document | told


def resolve(name: str, spec_of: SpecOf) -> Side:
    """What a name stands for: `champion`, a YAML or JSON file of overrides, or `experiment/arm`.

    Raises `InvalidInput`, and what `spec_of` raises for an experiment that there is none of.
    """
    if name == CHAMPION:
        return Side(name)
    path = Path(name)
    if path.is_file() or path.suffix.lower() in _FILES:
        return Side(name, read_overrides(path))
    experiment, slash, arm = name.partition("/")
    if not (experiment and slash and arm) or "/" in arm:
        raise InvalidInput(
            f"{name} is no variant; give {CHAMPION}, a .yaml or .json file of overrides, or EXPERIMENT/ARM"
        )
    return Side(name, parse_spec(spec_of(experiment)).arm(arm).overrides)


def read_overrides(path: Path) -> Mapping[str, Any]:
    """The mapping of a file; what it may hold is checked where it is laid over a configuration."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} cannot be read as YAML or JSON ({type(error).__name__}); check the file") from None
    if raw is not None and not isinstance(raw, Mapping):
        raise InvalidInput(f"{path} holds no mapping of overrides, such as `rerank: {{policy: never}}`")
    return raw or {}


def forgetful(settings: Settings) -> Settings:
    """The same settings for a scorer without a memory; see the module."""
    reranking = settings.reranking.model_copy(update={"cache_bytes": 0})
    return settings.model_copy(update={"redis_url": None, "reranking": reranking})


def _compared(
    settings: Settings, dataset: Dataset, scope: TenantScope, sides: tuple[Side, Side], plan: Plan
) -> dict[str, Any]:
    configs = [scope_of(scope, side).config for side in sides]
    models = {model for one in configs for model in (one.rerankers.small, one.rerankers.large)}
    wanted = [one.generator for one in configs if isinstance(one.generator, str)]
    retriever = open_retriever(settings)
    scorer = open_scorer(settings, sorted(models), Uncounted())
    answerer = generating(settings, retriever, wanted) if plan.answers else ExtractiveAnswerer(retriever)
    steps = Steps(retriever, AdaptiveReranker(scorer), answerer, Unrecorded())
    try:
        scorer.wait()
        return compare(dataset, scope, sides, steps, settings, plan, _Progress())
    finally:
        scorer.close()


class _Progress:
    """A line on stderr every `LINE_EVERY_S`."""

    def __init__(self) -> None:
        self._due = time.monotonic() + LINE_EVERY_S

    def __call__(self, done: int, of: int) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + LINE_EVERY_S
            sys.stderr.write(f"compared {done}/{of} questions\n")
            sys.stderr.flush()
