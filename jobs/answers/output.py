"""The file of answers: one JSON object a line, durable one by one, so that a killed job can go on. Only I/O.

A line is `{"_id": …, "_asked": …}` with the fields of the contract's Answer; `_asked` is the digest of what was
asked and how. Opening the file again drops a last line that was cut short, and tells which questions have an answer.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from tenants.errors import InFlight, InvalidInput


class AnswerFile:
    """One writer at a time; `done` {id: digest of what was asked} are the lines that stand."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file: BinaryIO = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InFlight(f"another job writes {path}; wait for it, or name another file") from None
        self.done = self._read()

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, query: str, asked: str, answer: Mapping[str, Any]) -> None:
        """Returns once the line is on the disk."""
        line = json.dumps({"_id": query, "_asked": asked, **answer}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[query] = asked

    def _read(self) -> dict[str, str]:
        self._file.seek(0)
        done: dict[str, str] = {}
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                done[str(row["_id"])] = str(row["_asked"])
            except (ValueError, KeyError, TypeError):
                self._file.close()
                raise InvalidInput(f"{self._path} line {number} is no answer of a job; name another file") from None
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)
        return done
