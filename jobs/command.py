"""How the jobs' own commands end when they did not succeed: what is printed, and SIGTERM as Ctrl-C."""

from __future__ import annotations

import json
import sys
from typing import NoReturn


def fail(code: str, detail: str, *, as_json: bool) -> int:
    """Print the error, as one JSON document on stdout where that was asked for; returns the exit code."""
    if as_json:
        print(json.dumps({"error": {"code": code, "detail": detail}}))  # noqa: T201 - the result is the output
    print(detail, file=sys.stderr)  # noqa: T201 - the command's error
    return 1


def tell(line: object) -> None:
    """One line of progress, on stderr."""
    print(line, file=sys.stderr)  # noqa: T201 - progress of a command


def interrupt(number: int, frame: object) -> NoReturn:
    """A signal handler: the job ends as on Ctrl-C."""
    raise KeyboardInterrupt
