"""`python -m jobs.answers --tenant acme --questions FILE`: answer a file of questions offline, with a Ray Data job.

The same entrypoint under `ray job submit --working-dir . -- python -m jobs.answers …`. Answers go to a JSONL file as
they come; the same command again goes on where a killed one ended. With `--json` stdout holds one JSON document and
nothing else; progress goes to stderr as plain lines. Exit codes: 0 done, 1 failed, cancelled or some questions failed,
2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.answers.job import Ask, answer_file, sentence
from jobs.answers.pipeline import answers
from jobs.calibration.progress import Paced
from jobs.command import fail, interrupt, tell
from services.control_plane import open_control_plane
from services.experiments.serving import Variants
from services.settings import load_settings
from tenants.errors import FathomError
from tenants.ids import tenant_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer what is left of one file."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        report = _run(options)
    except FathomError as error:
        return fail(error.code, error.detail, as_json=options.json)
    except KeyboardInterrupt:
        detail = "the job was interrupted; every answer so far is kept, the same command goes on"
        return fail("cancelled", detail, as_json=options.json)
    print(json.dumps(report) if options.json else sentence(report))  # noqa: T201 - the result is the output
    return 1 if report["failed"] else 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    settings = load_settings(data_dir=options.data_dir)
    store = open_control_plane(settings)
    try:
        scope = Variants().champion(store.scope_of(store.get_tenant(tenant_name(options.tenant)), settings.root))
        out = options.out or options.questions.with_suffix(".answers.jsonl")
        ask = Ask(options.generator, options.rerank, options.max_tokens)
        return answer_file(options.questions, out, scope, settings, ask, answers, Paced(tell))
    finally:
        store.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.answers", description="Answer a file of questions.")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--questions", type=Path, required=True, help="JSONL: _id, text")
    parser.add_argument("--out", type=Path, help="JSONL of answers; default: beside the questions, .answers.jsonl")
    parser.add_argument("--generator", help="extractive, vllm, auto or a generator's name; default: the tenant's own")
    parser.add_argument("--rerank", choices=("auto", "always", "never"), default="auto")
    parser.add_argument("--max-tokens", type=int, help="of one answer")
    parser.add_argument("--data-dir", help="the platform's data dir; default FATHOM_DATA_DIR or ./.fathom")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
