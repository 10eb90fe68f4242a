"""`fathom`: every verb, registered; the outermost frame that turns errors into a sentence and an exit code."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Sequence

import typer

from cluster.cli import (
    ab_verbs,
    answers_verbs,
    ask_verbs,
    audit_verbs,
    bench_verbs,
    calibrate_verbs,
    eval_verbs,
    index_verbs,
    key_verbs,
    platform_verbs,
    share_verbs,
    tenant_verbs,
    train_verbs,
)
from cluster.cli.output import FAILURE, USAGE, report_error, reserve_stdout
from tenants.errors import Cancelled, FathomError, InvalidInput

CANCELLED = 130
CANCELLED_TEXT = "cancelled; nothing of it is published, and what was finished is used again"


def build_app() -> typer.Typer:
    """The command tree."""
    app = typer.Typer(
        name="fathom",
        help="Multi-tenant retrieval-augmented answers on Ray: index documents, ask questions, get cited answers.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    for family in (platform_verbs, index_verbs, ask_verbs, answers_verbs, eval_verbs, calibrate_verbs, audit_verbs):
        family.register(app)
    app.add_typer(tenant_verbs.build(), name="tenant", help="Create, list, change and delete tenants.")
    app.add_typer(key_verbs.build(), name="key", help="Create, list and revoke API keys.")
    app.add_typer(share_verbs.build(), name="share", help="Let a tenant search a collection of another one.")
    app.add_typer(bench_verbs.build(), name="bench", help="Measure this platform.")
    app.add_typer(ab_verbs.build(), name="ab", help="Compare variants, offline and on users; promote and roll back.")
    app.add_typer(train_verbs.build(), name="train", help="Train models of one's own.")
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    as_json = "--json" in arguments
    try:
        code = build_app()(args=list(arguments), prog_name="fathom", standalone_mode=False)
    except (Cancelled, KeyboardInterrupt, typer.Abort):
        report_error(Cancelled(CANCELLED_TEXT), as_json=as_json)
        return CANCELLED
    except FathomError as error:
        return report_error(error, as_json=as_json)
    except typer.TyperException as error:
        report_error(InvalidInput(f"{error.format_message()} See `fathom --help`."), as_json=as_json)
        return USAGE
    except BrokenPipeError:
        return FAILURE
    except Exception as error:  # noqa: BLE001  the outermost frame: a defect is a sentence too, its trace a file
        return report_error(_unexpected(error), as_json=as_json)
    if code == CANCELLED:  # what typer makes of a Ctrl-C inside a verb
        report_error(Cancelled(CANCELLED_TEXT), as_json=as_json)
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception) -> FathomError:
    with tempfile.NamedTemporaryFile("w", prefix="fathom-trace-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return FathomError(f"unexpected {type(error).__name__}; the trace is in {file.name}: please report it")


def main() -> None:
    """The console script."""
    if "--json" in sys.argv and "--help" not in sys.argv:
        reserve_stdout()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
