"""`python -m jobs.experiments --tenant acme`: one pass of the loop that improves a tenant's reranker by its clicks.

Under `ray job submit`, from a cron of any kind: each pass does what is due (train, certify, start an A/B test, promote
or reject) and ends. With `--wait` it goes on until the round is over. With `--json` stdout holds one JSON document.
Exit codes: 0 done or nothing due, 1 failed, 2 wrong use, 130 cancelled.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jobs.command import fail, interrupt, tell
from jobs.experiments.desk import Desk
from jobs.experiments.improving import Step, Trained, Wishes, advance
from jobs.training.order import Order
from jobs.training.reranker import run_order
from services.audit.log import open_audit_log
from services.audit.reading import AuditReader
from services.control_plane import open_control_plane
from services.experiments.spec import parse_guardrail
from services.settings import Settings, load_settings
from tenants.config import TenantConfig
from tenants.database import Database
from tenants.errors import Cancelled, FathomError, InvalidInput
from tenants.ids import tenant_name
from tenants.store import Store

CANCELLED = 130
LOOK_S = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """One pass, or with `--wait` one round."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        step = improve(options, load_settings(data_dir=options.data_dir))
    except (Cancelled, KeyboardInterrupt):
        fail("cancelled", "the pass was interrupted; the next one goes on", as_json=options.json)
        return CANCELLED
    except FathomError as error:
        return fail(error.code, error.detail, as_json=options.json)
    print(json.dumps(step.to_json()) if options.json else f"{step.stage}: {step.reason}")  # noqa: T201 - the result
    return 0


def improve(options: argparse.Namespace, settings: Settings) -> Step:
    """One pass, or with `--wait` passes until the round is over or nothing can be done."""
    store, log = open_control_plane(settings), open_audit_log(settings.audit_url)
    desk = Desk(store, AuditReader(Database(settings.audit_url)), log, settings)
    train, certify = partial(trained, options, settings), partial(certified, options, store, settings)
    try:
        while True:
            desk.look()
            step = advance(store, desk, wishes_of(options), train, certify)
            if step.stage != "testing" or not options.wait:
                return step
            tell(f"{step.stage}: {step.reason}")
            time.sleep(LOOK_S)
    finally:
        log.close()
        store.close()


def trained(options: argparse.Namespace, settings: Settings, base: str) -> Trained:
    """Train on the tenant's feedback, going on from what serves. Raises `InvalidInput` where that cannot be."""
    order = Order(
        role=options.role,
        from_feedback=True,
        tenants=(tenant_name(options.tenant),),
        base=base,
        work=options.work,
        budget_minutes=options.budget_minutes,
        frozen_layers=options.frozen_layers,
    )
    made = run_order(order, settings, tell)
    if made["registered"] is None:
        raise InvalidInput("the model could not be registered; check that MLflow runs")
    return Trained(made["registered"], _best(made["dev"]), _best(made["before"]), made["run_id"])


def certified(options: argparse.Namespace, store: Store, settings: Settings, config: TenantConfig) -> dict[str, Any]:
    """Calibrate that configuration's cross-encoders on the tenant's clicks; others keep their calibration."""
    from jobs.calibration.job import calibrate
    from jobs.calibration.pipeline import collect
    from jobs.calibration.progress import Paced
    from jobs.calibration.questions import read_feedback, read_questions

    tenant = store.get_tenant(tenant_name(options.tenant))
    scope = replace(store.scope_of(tenant, settings.root), config=config)
    try:
        questions = read_feedback(settings, store, tenant)
    except InvalidInput:  # nobody clicked: what is bounded then is the disagreement with the full rerank
        questions = read_questions(settings, tenant, None, None)
    return calibrate(questions.first(options.certify_on), scope, store, settings, collect, Paced(tell), keep_fit=True)


def wishes_of(options: argparse.Namespace) -> Wishes:
    """The command line as wishes."""
    return Wishes(
        tenant=tenant_name(options.tenant),
        role=options.role,
        feedback=options.feedback,
        gain=options.gain,
        ramp=options.ramp,
        metric=options.metric,
        guardrails=dict(map(parse_guardrail, options.guardrail)),
        window_s=options.window_s,
        planned=options.planned,
        minimum_effect=options.minimum_effect,
    )


def _best(dev: dict[str, dict[str, float]]) -> float:
    """Mean over the sets of each one's best blend; 0 without any."""
    return sum(max(one.values()) for one in dev.values()) / len(dev) if dev else 0.0


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    default = Wishes("")
    made = argparse.ArgumentParser(prog="python -m jobs.experiments", description="Improve a reranker by feedback.")
    made.add_argument("--tenant", required=True)
    made.add_argument("--role", choices=("small", "large"), default=default.role)
    made.add_argument("--feedback", type=int, default=default.feedback, help="judgements that a round needs")
    made.add_argument("--gain", type=float, default=default.gain, help="of nDCG@10 on held-out clicks, at least")
    made.add_argument("--budget-minutes", type=float, default=60.0, help="wall clock of the training")
    made.add_argument("--frozen-layers", type=int, default=0, help="of the network, from below")
    made.add_argument("--certify-on", type=int, default=1_000, help="clicked questions to certify on at most")
    made.add_argument("--work", type=Path, default=Path("training"), help="folder of checkpoints and mined questions")
    made.add_argument("--metric", default=default.metric, help="what decides the A/B test")
    made.add_argument("--guardrail", action="append", default=[], metavar="METRIC=TOLERANCE")
    made.add_argument("--ramp", type=float, default=default.ramp, help="share of units that take part")
    made.add_argument("--window-s", type=float, default=default.window_s, help="seconds that a unit is watched")
    made.add_argument("--planned", type=int, help="units to decide by; default: computed")
    made.add_argument("--minimum-effect", type=float, default=default.minimum_effect)
    made.add_argument("--wait", action="store_true", help="go on until the round is over")
    made.add_argument("--data-dir", help="the platform's data dir; default FATHOM_DATA_DIR or ./.fathom")
    made.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return made


if __name__ == "__main__":
    sys.exit(main())
