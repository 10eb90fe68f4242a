"""How a running job is shown: a bar with rate and time left on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.indexing.job import Progress

Show = Callable[["Progress"], None]
LINE_EVERY_S = 5.0


@contextmanager
def shown(title: str) -> Iterator[Show]:
    """A function that takes each report of the job."""
    if sys.stderr.isatty():
        with _bar(title) as show:
            yield show
    else:
        yield _Lines(title)


def describe(report: Progress) -> str:
    """One line: stage, documents, chunks, rate, time left."""
    left = "" if report.eta_s is None else f", {duration(report.eta_s)} left"
    done = f"{report.documents}/{report.of}" if report.of else str(report.documents)
    return f"{report.stage}: {done} documents, {report.chunks} chunks, {report.rate:.1f}/s{left}"


def duration(seconds: float) -> str:
    """Minutes and seconds, `3:07`; hours before them when there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def _bar(title: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, more="")

        def show(report: Progress) -> None:
            left = "" if report.eta_s is None else f"  {duration(report.eta_s)} left"
            more = f"{report.chunks} chunks  {report.rate:.1f} documents/s{left}"
            bar.update(
                task,
                description=f"{title} {report.stage}",
                completed=report.documents,
                total=report.of or None,
                more=more,
            )

        yield show


class _Lines:
    """At most one line every `LINE_EVERY_S`, and one whenever the stage changes."""

    def __init__(self, title: str) -> None:
        self._title, self._stage, self._due = title, "", 0.0

    def __call__(self, report: Progress) -> None:
        now = time.monotonic()
        if report.stage == self._stage and now < self._due:
            return
        self._stage, self._due = report.stage, now + LINE_EVERY_S
        sys.stderr.write(f"{self._title} {describe(report)}\n")
        sys.stderr.flush()
