"""Runs in MLflow: parameters, figures, plots, small documents of figures. Never a tenant's text.

Tracking is a witness, not a part of the work: when MLflow cannot be reached, a `Run` says so once in the log and
stays silent; no job fails for it. MLflow is loaded in a thread as soon as a run begins, because that takes seconds
which the work itself can use.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from sqlalchemy.exc import SQLAlchemyError

from services.models import load_mlflow
from services.settings import Settings
from tenants.errors import Cancelled, Unavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

OFF = "off"  # as `mlflow_tracking_uri`: no run is tracked
CLOSE_TIMEOUT_S = 60.0
HTTP_RETRIES = 1
HTTP_TIMEOUT_S = 10
_PARAM_CHARS, _TAG_CHARS = 500, 4_000
_BATCH = 500  # metrics of one call
_PARENT = "mlflow.parentRunId"
_log = logging.getLogger(__name__)

Step = Callable[["MlflowClient", str], None]


class Run:
    """One MLflow run. Every method returns at once; the thread behind it does the work in order.

    MLflow shows it below `parent`, where there is one.
    """

    def __init__(
        self, settings: Settings, experiment: str, params: Mapping[str, object], parent: Run | None = None
    ) -> None:
        self.run_id: str | None = None
        self.failure: str | None = None
        self.versions: dict[str, str] = {}
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._started = threading.Event()
        self._parent = parent
        self._thread = threading.Thread(target=self._work, args=(settings, experiment, dict(params)), daemon=True)
        if settings.mlflow_tracking_uri == OFF:
            self._started.set()
        else:
            self._thread.start()

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log figures by name."""
        kept = dict(values)

        def log(client: MlflowClient, run_id: str) -> None:
            for name, value in kept.items():
                client.log_metric(run_id, name, value)

        self._steps.put(log)

    def series(self, name: str, points: Sequence[tuple[int, float]]) -> None:
        """Log a curve of (step, value)."""
        kept = list(points)

        def log(client: MlflowClient, run_id: str) -> None:
            for step, value in kept:
                client.log_metric(run_id, name, value, step=step)

        self._steps.put(log)

    def register(self, folder: Path, name: str, alias: str) -> None:
        """Keep a model's folder as an artefact and make it the newest version of `name`, which `alias` then means.

        `versions[name]` tells the version once it is there; the folder must stay until the run is closed.
        """

        def log(client: MlflowClient, run_id: str) -> None:
            client.log_artifacts(run_id, str(folder), name)
            source = f"{client.get_run(run_id).info.artifact_uri}/{name}"
            _known_model(client, name)
            version = client.create_model_version(name, source, run_id=run_id)
            client.set_registered_model_alias(name, alias, version.version)
            self.versions[name] = str(version.version)

        self._steps.put(log)

    def figure(self, figure: Figure, name: str) -> None:
        """Keep a plot as the artefact `name`, such as `stages.png`."""
        self._steps.put(lambda client, run_id: client.log_figure(run_id, figure, name))

    def document(self, value: Mapping[str, Any], name: str) -> None:
        """Keep a mapping of ids, digests and figures as the artefact `name`, such as `manifest.json`."""
        kept = dict(value)
        self._steps.put(lambda client, run_id: client.log_dict(run_id, kept, name))

    def text(self, value: str, name: str) -> None:
        """Keep a text without a tenant's words as the artefact `name`, such as `report.html`."""
        self._steps.put(lambda client, run_id: client.log_text(run_id, value, name))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        kept = dict(values)

        def log(client: MlflowClient, run_id: str) -> None:
            for name, value in kept.items():
                client.set_tag(run_id, name, value)

        self._steps.put(log)

    def wait_for_id(self, timeout_s: float = CLOSE_TIMEOUT_S) -> str | None:
        """The run's id, None when MLflow did not give one in time."""
        self._started.wait(timeout_s)
        return self.run_id

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED, once everything before is logged."""
        self._steps.put(lambda client, run_id: client.set_terminated(run_id, status))
        self._steps.put(None)
        if self._thread.ident is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _work(self, settings: Settings, experiment: str, params: dict[str, object]) -> None:
        # The first import and the first use are part of the attempt: a broken installation must not end a job.
        load_mlflow()
        from mlflow.exceptions import MlflowException

        try:
            above = None if self._parent is None else self._parent.wait_for_id()
            client, self.run_id = _begin(settings, experiment, params, {} if above is None else {_PARENT: above})
            self._started.set()
            while (step := self._steps.get()) is not None:
                step(client, self.run_id)
        except (MlflowException, SQLAlchemyError, OSError, ValueError) as error:
            self.failure = type(error).__name__
            _log.warning("MLflow does not take this run (%s); the work goes on without it", self.failure)
        finally:
            self._started.set()


@contextmanager
def run(settings: Settings, experiment: str, params: Mapping[str, object], parent: Run | None = None) -> Iterator[Run]:
    """A run of `experiment`, such as `fathom/indexing`; FINISHED, KILLED when it was cancelled, or else FAILED."""
    started = Run(settings, experiment, params, parent)
    status = "FAILED"
    try:
        yield started
        status = "FINISHED"
    except (Cancelled, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        started.close(status)


def _known_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def stage_figure(seconds: Mapping[str, float], title: str) -> Figure:
    """Horizontal bars: where the time went, in seconds, in the mapping's order from top to bottom."""
    figure = Figure(figsize=(7, 0.5 * len(seconds) + 1.4), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(seconds), list(seconds.values()), color="#3b6ea5")
    axes.bar_label(bars, fmt="%.1f s", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("seconds, summed over workers")
    axes.set_title(title)
    axes.margins(x=0.15)
    return figure


def _begin(
    settings: Settings, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]
) -> tuple[MlflowClient, str]:
    from mlflow import MlflowClient

    _brief()
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    run_id = client.create_run(_experiment_id(client, settings, experiment), tags=dict(tags)).info.run_id
    for name, value in params.items():
        client.log_param(run_id, name, str(value)[:_PARAM_CHARS])
    return client, run_id


def _brief() -> None:
    """MLflow's client gives up soon and says nothing on stdout, which belongs to the command's own document."""
    from mlflow.environment_variables import (
        MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        MLFLOW_HTTP_REQUEST_TIMEOUT,
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
    )

    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(HTTP_RETRIES)
    MLFLOW_HTTP_REQUEST_TIMEOUT.set(HTTP_TIMEOUT_S)


def _experiment_id(client: MlflowClient, settings: Settings, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = settings.mlflow_uri.startswith("sqlite:")
    try:
        return str(
            client.create_experiment(
                name, f"file://{Path(settings.data_dir).absolute()}/mlartifacts" if local else None
            )
        )
    except MlflowException:
        # Another job made it in between.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


class Ledger:
    """Runs that are written for days, by whichever process is there: experiments. Blocking.

    Every method raises `Unavailable` when MLflow does not take it: whoever calls keeps the rest and comes again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def begin(self, experiment: str, name: str, params: Mapping[str, object], parent: str | None = None) -> str:
        """A run; gives its id."""
        with self._taken():
            client, run_id = _begin(self._settings, experiment, params, {} if parent is None else {_PARENT: parent})
            client.set_tag(run_id, "mlflow.runName", name)
        return run_id

    def points(self, run_id: str, points: Sequence[tuple[str, float, int]]) -> None:
        """(name, value, step) each; what is not finite is left out."""
        now = int(time.time() * 1000)
        with self._taken() as client:
            from mlflow.entities import Metric

            kept = [Metric(name, value, now, step) for name, value, step in points if math.isfinite(value)]
            for start in range(0, len(kept), _BATCH):
                client.log_batch(run_id, metrics=kept[start : start + _BATCH])

    def keep(self, run_id: str, texts: Mapping[str, str], figures: Mapping[str, Figure]) -> None:
        """Texts and plots as artefacts, by name; again replaces them."""
        with self._taken() as client:
            for name, text in texts.items():
                client.log_text(run_id, text, name)
            for name, figure in figures.items():
                client.log_figure(run_id, figure, name)

    def tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """Set tags."""
        with self._taken() as client:
            for name, value in values.items():
                client.set_tag(run_id, name, value[:_TAG_CHARS])

    def variant(self, experiment: str, run_id: str, name: str, params: Mapping[str, object], model: str) -> str:
        """A LoggedModel of the run with its parameters, and the next version of the registered `model`: its number."""
        with self._taken() as client:
            told = {key: str(value)[:_PARAM_CHARS] for key, value in params.items()}
            home = _experiment_id(client, self._settings, experiment)
            made = client.create_logged_model(home, name, run_id, params=told, model_type="fathom-variant")
            client.finalize_logged_model(made.model_id, "READY")
            _known_model(client, model)
            version = client.create_model_version(model, f"models:/{made.model_id}", run_id, model_id=made.model_id)
        return str(version.version)

    def end(self, run_id: str) -> None:
        """FINISHED."""
        with self._taken() as client:
            client.set_terminated(run_id, "FINISHED")

    @contextmanager
    def _taken(self) -> Iterator[MlflowClient]:
        load_mlflow()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            _brief()
            yield MlflowClient(tracking_uri=self._settings.mlflow_uri)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise Unavailable(f"MLflow does not take it ({type(error).__name__}); it is told later") from None
