"""What a verb prints: people get tables and sentences, `--json` gets one JSON document on stdout and nothing else.

Errors are one sentence on stderr; with `--json` they are `{"error": {"code", "detail", …}}` on stdout.
Exit codes: 0 success, 1 failure, 2 wrong use, 130 cancelled by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from tenants.errors import FathomError, InvalidInput

USAGE, FAILURE = 2, 1
PIPE_COLUMNS = 240  # wide enough that no cell of a table is cut where no terminal is


@dataclass(frozen=True, slots=True)
class Output:
    """Where one verb's result goes."""

    as_json: bool

    @property
    def console(self) -> Console:
        """The people's side: stdout, or stderr while stdout belongs to the JSON document."""
        plain = None if sys.stdout.isatty() else PIPE_COLUMNS
        return Console(stderr=self.as_json, highlight=False, soft_wrap=True, width=plain)

    def result(self, document: Any, *lines: str) -> None:
        """The verb's outcome: `document` with `--json`, else `lines`."""
        if self.as_json:
            write_json(document)
        else:
            for line in lines:
                self.console.print(line, markup=False)

    def table(self, document: Any, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A list: `document` with `--json`, else a table."""
        if self.as_json:
            write_json(document)
            return
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*("" if cell is None else str(cell) for cell in row))
        self.console.print(table)

    def note(self, text: str) -> None:
        """What is going on right now; never part of the result."""
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


_reserved: list[TextIO] = []


def reserve_stdout() -> None:
    """From here on only `write_json` reaches this process's stdout; what a library prints there goes to stderr.

    By file descriptors, since native code and Ray's workers print without asking Python. For the console script.
    """
    sys.stdout.flush()
    _reserved.append(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)


def write_json(document: Any) -> None:
    """One JSON document on stdout."""
    out = _reserved[-1] if _reserved else sys.stdout
    out.write(json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")
    out.flush()


def report_error(error: FathomError, *, as_json: bool) -> int:
    """Print one sentence, or the JSON error; returns the exit code."""
    if as_json:
        write_json({"error": error_document(error)})
    else:
        sys.stderr.write(f"fathom: {error.detail}\n")
    return USAGE if isinstance(error, InvalidInput) else FAILURE


def error_document(error: FathomError) -> Mapping[str, Any]:
    """The same names as the HTTP problem's."""
    fields: dict[str, Any] = {"code": error.code, "detail": error.detail, "retryable": error.retryable}
    if error.errors:
        fields["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in error.errors]
    if error.retry_after_s is not None:
        fields["retry_after_s"] = error.retry_after_s
    return fields
