"""Reads one experiment from the control plane and the audit log, and analyses it. Blocking.

Everything is computed from what is durable: two processes that look at the same time see the same, and a look that was
missed loses nothing.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from jobs.experiments.analysis import Analysis, analyse, compare_means
from jobs.experiments.observations import (
    CREDIT,
    Judgement,
    Values,
    judgements_of,
    mean_credits,
    observe,
    pairs_of,
    unit_values,
    unix_ms,
)
from services.audit.reading import AuditReader, StoredOutcome
from services.experiments.spec import Spec, parse_spec
from tenants.experiment_rows import Experiment
from tenants.store import Store


def look_at(store: Store, audit: AuditReader, experiment: Experiment, now: datetime) -> Analysis:
    """The experiment as it stands; one that has ended, as it stood at its end."""
    spec = parse_spec(experiment.spec)
    ended = experiment.stopped_at is not None
    until = experiment.stopped_at or now
    until_ms = unix_ms(until)
    outcomes = [
        row
        for uid in experiment.uids
        for row in audit.outcomes(uid, experiment=experiment.name)
        if unix_ms(experiment.created_at) <= row.at_ms <= until_ms  # another one may have had the name before
    ]
    if spec.kind == "shadow":
        return _shadow(spec, outcomes)
    judgements = [one for one in _judgements(store, experiment) if one.at_ms <= until_ms]
    if spec.kind == "interleaving":
        return compare_means(
            spec, [(CREDIT, mean_credits(spec, outcomes, judgements, until_ms, ended=ended), 0.5)], CREDIT
        )
    past = _past(audit, experiment, outcomes)
    return analyse(spec, observe(spec, outcomes, judgements, past, until_ms, ended=ended))


def _shadow(spec: Spec, outcomes: list[StoredOutcome]) -> Analysis:
    control, rival = pairs_of(outcomes, spec)
    rows = [(name, rival[name] - control[name], 0.0) for name in control if name != "overlap"]
    return compare_means(spec, [*rows, ("overlap", rival["overlap"], 1.0)], None)


def _judgements(store: Store, experiment: Experiment) -> list[Judgement]:
    owners = [store.get_tenant(name) for name, _ in experiment.tenants]
    return [one for owner in owners for one in judgements_of(store.feedback_since(owner, experiment.created_at))]


def _past(audit: AuditReader, experiment: Experiment, outcomes: list[StoredOutcome]) -> dict[str, Values]:
    """{unit: what it did before the experiment}: the covariates that take chance out of the difference.

    Without judgements: those of then would need all feedback since, for the metrics that hardly need them.
    """
    units: dict[str, set[str]] = defaultdict(set)
    for row in outcomes:
        units[row.uid].add(row.unit)
    before = unix_ms(experiment.created_at)
    rows: dict[str, list[StoredOutcome]] = defaultdict(list)
    for uid, some in units.items():
        for row in audit.outcomes(uid, units=some, until_ms=before):
            rows[row.unit].append(row)
    return {unit: unit_values(each, {}, float("inf")) for unit, each in rows.items()}
