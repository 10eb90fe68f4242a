"""Runs `fathom calibrate` from this process: on the running platform's Ray, else on a Ray of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.cli.attaching import attached
from cluster.cli.progress import duration
from services.control_plane import open_control_plane
from services.experiments.serving import Variants
from services.settings import Settings
from tenants.errors import InvalidInput
from tenants.ids import tenant_name

if TYPE_CHECKING:
    from jobs.calibration.job import Show
    from jobs.calibration.progress import Pace

REDRAW_S = 0.2


def run_calibration(
    settings: Settings,
    tenant: str,
    queries: Path | None,
    qrels: Path | None,
    limit: int | None,
    *,
    from_feedback: bool = False,
) -> dict[str, Any]:
    """The report of `jobs.calibration.job.calibrate`. Raises `InvalidInput` for a missing file."""
    if from_feedback and (queries or qrels):
        raise InvalidInput("--from-feedback takes no files; give one or the other")
    for path in (queries, qrels):
        if path is not None and not path.is_file():
            raise InvalidInput(f"there is no file {path}; check the path")
    settings = attached(settings)
    # Loaded after the environment is set: Ray reads it at import.
    from jobs.calibration.job import calibrate
    from jobs.calibration.pipeline import collect
    from jobs.calibration.questions import read_feedback, read_questions

    store = open_control_plane(settings)
    owner = store.get_tenant(tenant_name(tenant))
    asked = read_feedback(settings, store, owner) if from_feedback else read_questions(settings, owner, queries, qrels)
    questions = asked.first(limit)
    with shown_pace(tenant) as show:
        scope = Variants().champion(store.scope_of(owner, settings.root))
        return calibrate(questions, scope, store, settings, collect, show)


@contextmanager
def shown_pace(title: str) -> Iterator[Show]:
    """A bar with rate and time left on a terminal, plain lines elsewhere; on stderr."""
    from jobs.calibration.progress import Paced

    if sys.stderr.isatty():
        with _bar(title) as draw:
            yield Paced(draw, every_s=REDRAW_S)
    else:
        yield Paced(lambda pace: print(f"{title} {pace}", file=sys.stderr, flush=True))  # noqa: T201


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, more="")

        def draw(pace: Pace) -> None:
            left = "" if pace.left_s is None else f"  {duration(pace.left_s)} left"
            more = f"{pace.rate:.1f} questions/s{left}"
            bar.update(task, description=f"{title} {pace.stage}", completed=pace.done, total=pace.of, more=more)

        yield draw
