"""Runs `fathom answers` from this process: on the running platform's Ray, else on a Ray of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.cli.attaching import attached
from cluster.cli.calibration import shown_pace
from services.control_plane import open_control_plane
from services.experiments.serving import Variants
from services.settings import Settings
from tenants.ids import tenant_name

if TYPE_CHECKING:
    from jobs.answers.job import Ask


def run_answers(settings: Settings, tenant: str, questions: Path, out: Path, ask: Ask) -> dict[str, Any]:
    """The report of `jobs.answers.job.answer_file`."""
    settings = attached(settings)
    # Loaded after the environment is set: Ray reads it at import.
    from jobs.answers.job import answer_file
    from jobs.answers.pipeline import answers

    store = open_control_plane(settings)
    try:
        scope = Variants().champion(store.scope_of(store.get_tenant(tenant_name(tenant)), settings.root))
        with shown_pace(tenant) as show:
            return answer_file(questions, out, scope, settings, ask, answers, show)
    finally:
        store.close()
