"""Structured logs: one JSON object a line. Holds ids, routes, codes and times, never a text or a key."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

_FIELDS = ("request_id", "tenant", "key_id", "method", "route", "status", "duration_ms", "job_id", "query_id", "code")


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "event", …}`; only the fields named here are copied from a record."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, no newline inside."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update({name: getattr(record, name) for name in _FIELDS if hasattr(record, name)})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure(level: str) -> None:
    """Send Fathom's loggers to stderr as JSON lines; foreign loggers keep their own handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger("fathom")
    root.handlers = [handler]
    root.setLevel(level.upper())
    root.propagate = False
