"""`python -m jobs.calibration --tenant acme`: fit and certify a tenant's adaptive reranking with a Ray Data job.

The same entrypoint under `ray job submit --working-dir . -- python -m jobs.calibration …`. With `--json` stdout holds
one JSON document and nothing else; progress goes to stderr as plain lines. Exit codes: 0 done (also with too few
questions: the report says so), 1 failed or cancelled, 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.calibration.job import calibrate
from jobs.calibration.pipeline import collect
from jobs.calibration.progress import Paced
from jobs.calibration.questions import read_questions
from jobs.command import fail, interrupt, tell
from services.control_plane import open_control_plane
from services.experiments.serving import Variants
from services.settings import load_settings
from tenants.errors import FathomError
from tenants.ids import tenant_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one calibration to its end."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        report = _run(options)
    except FathomError as error:
        return fail(error.code, error.detail, as_json=options.json)
    except KeyboardInterrupt:
        return fail("cancelled", "the calibration was interrupted; nothing was stored", as_json=options.json)
    print(json.dumps(report) if options.json else report["message"])  # noqa: T201 - the result is the output
    return 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    settings = load_settings(data_dir=options.data_dir)
    store = open_control_plane(settings)
    try:
        tenant = store.get_tenant(tenant_name(options.tenant))
        questions = read_questions(settings, tenant, options.queries, options.qrels).first(options.limit)
        scope = Variants().champion(store.scope_of(tenant, settings.root))
        return calibrate(questions, scope, store, settings, collect, Paced(tell))
    finally:
        store.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.calibration", description="Certify a tenant's reranking.")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--queries", type=Path, help="JSONL: _id, text; default: the questions of the audit")
    parser.add_argument("--qrels", type=Path, help="TSV: query-id, corpus-id, score")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    parser.add_argument("--data-dir", help="the platform's data dir; default FATHOM_DATA_DIR or ./.fathom")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
