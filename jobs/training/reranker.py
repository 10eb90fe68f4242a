"""`python -m jobs.training.reranker --data FOLDER | --from-feedback --tenant NAME`: train a cross-encoder.

With `--json` stdout holds one JSON document and nothing else; progress goes to stderr. Ctrl-C and SIGTERM leave a
checkpoint for `--resume`. Exit codes: 0 done, 1 failed, 130 cancelled, 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from jobs.command import fail
from jobs.training.order import ENGINES, ROLES, Order, check_lineage, checked
from jobs.training.sources import Sample
from services.control_plane import open_control_plane
from services.models import BUILTIN
from services.settings import Settings, adopt_environment, load_settings
from tenants.errors import Cancelled, FathomError, InvalidInput

CANCELLED = 130
# Threads that wait in OpenMP shall sleep: spinning takes the cores from whatever else runs on the machine.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "MLFLOW_LOGGING_LEVEL": "ERROR"}
_ORDER = Order()


def run_order(order: Order, settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """Run one job in this process; see `job.train`. Torch is loaded here, after the environment it reads is set."""
    checked(order)
    adopt_environment(ENVIRONMENT)
    from jobs.training.feedback import feedback_tenants, mine_all
    from jobs.training.job import train

    if not order.from_feedback:
        check_lineage(order, ())
        return train(order, settings, report)
    with closing(open_control_plane(settings)) as store:
        tenants = feedback_tenants(store, order)
        check_lineage(order, {tenant.name for tenant in tenants})
        mined = mine_all(store, order, tenants, settings, report)
    return train(order, settings, report, mined)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job to its end."""
    options = parser().parse_args(arguments)
    try:
        result = run_order(_order(options), load_settings(data_dir=options.data_dir), _show)
    except (Cancelled, KeyboardInterrupt):
        fail("cancelled", "training was interrupted; go on with --resume", as_json=options.json)
        return CANCELLED
    except FathomError as error:
        return fail(error.code, error.detail, as_json=options.json)
    print(json.dumps(result) if options.json else "\n".join(sentences(result)))  # noqa: T201 - the result is the output
    return 0


def sentences(result: dict[str, Any]) -> list[str]:
    """A result for people: the folder, the registered version, and each set's gain at its best blend."""
    lines = [f"{result['folder']}: {result['pairs']} pairs in {result['seconds']:.0f} s"]
    for name, figures in result["dev"].items():
        best = max(figures, key=lambda blend: figures[blend])
        lines.append(f"  {name}: nDCG@10 {figures['0']:.3f} → {figures[best]:.3f} at w = {best}")
    whose = f", {result['tenant']}'s alone" if result["tenant"] else ""
    lines.append(f"  {result['registered'] or 'not registered'}{whose}, MLflow run {result['run_id']}")
    return lines


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(prog="python -m jobs.training.reranker", description="Train a cross-encoder.")
    made.add_argument("--role", choices=ROLES, default=_ORDER.role, help="which of a tenant's two it is to be")
    made.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="FOLDER[:QUESTIONS[:DOCUMENTS]]",
        help="labelled questions in the BEIR layout, or a sample of them; may be repeated",
    )
    made.add_argument(
        "--dev", action="append", default=[], metavar="FOLDER[:QUESTIONS]", help="a folder that only measures"
    )
    made.add_argument("--from-feedback", action="store_true", help="learn from what users clicked and judged")
    made.add_argument(
        "--tenant", action="append", default=[], help="whose feedback; several only if each has feedback.pool"
    )
    made.add_argument("--pooled", action="store_true", help="feedback of every tenant that has feedback.pool")
    made.add_argument("--base", default=BUILTIN, help="encoder or cross-encoder to start from: any model reference")
    made.add_argument("--layers", type=int, help="keep only its first layers")
    made.add_argument("--teacher", help="cross-encoder whose margins are learned, too: any model reference")
    made.add_argument("--embedder", default=BUILTIN, help="the first stage's embedder")
    made.add_argument("--work", type=Path, default=_ORDER.work, help="folder of checkpoints and mined questions")
    made.add_argument("--budget-minutes", type=float, default=_ORDER.budget_minutes, help="wall clock of the training")
    made.add_argument("--steps", type=int, help="steps at most")
    made.add_argument("--resume", action="store_true", help="go on from the work folder's checkpoint")
    made.add_argument("--engine", choices=ENGINES, default=_ORDER.engine, help="what trains")
    made.add_argument("--hard-ranks", default="5:60", metavar="FIRST:LAST", help="fused ranks of hard negatives")
    for name, text in _NUMBERS.items():
        default = getattr(_ORDER, name)
        flag = f"--{name.replace('_', '-')}"
        made.add_argument(flag, type=type(default), default=default, help=f"{text}; default {default}")
    made.add_argument("--no-register", action="store_true", help="leave the registry as it is")
    made.add_argument("--data-dir", help="the platform's data dir; default FATHOM_DATA_DIR or ./.fathom")
    made.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return made


_NUMBERS = {
    "seed": "of sampling",
    "peak": "learning rate",
    "groups": "questions per step",
    "frozen_layers": "first layers that do not learn",
    "hard": "hard negatives per question",
    "medium": "negatives behind the hard ones",
    "random": "negatives from the whole corpus",
    "short_tokens": "tokens of most pairs at most",
    "long_tokens": "tokens of the longest pairs",
    "long_share": "share of questions with long pairs",
    "dev_questions": "dev questions per set",
    "dev_depth": "candidates of each that are scored",
    "mix_base": "share of the base's weights averaged in at most; dev chooses",
}


def _order(options: argparse.Namespace) -> Order:
    return Order(
        role=options.role,
        data=tuple(Sample.parse(one) for one in options.data),
        dev=tuple(Sample.parse(one) for one in options.dev),
        from_feedback=options.from_feedback,
        tenants=tuple(dict.fromkeys(options.tenant)),
        pooled=options.pooled,
        base=options.base,
        layers=options.layers,
        teacher=options.teacher,
        embedder=options.embedder,
        work=options.work,
        budget_minutes=options.budget_minutes,
        steps=options.steps,
        resume=options.resume,
        engine=options.engine,
        hard_ranks=ranks(options.hard_ranks),
        register=not options.no_register,
        **{name: getattr(options, name) for name in _NUMBERS},
    )


def ranks(text: str) -> tuple[int, int]:
    """`FIRST:LAST`. Raises `InvalidInput`."""
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit()):
        raise InvalidInput.field("/hard_ranks", f"{text} is not FIRST:LAST")
    return int(first), int(last)


def _show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command


if __name__ == "__main__":
    sys.exit(main())
