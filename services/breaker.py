"""A circuit breaker: after repeated failures calls are refused at once, until one trial succeeds. No I/O.

closed --`failures` in a row--> open --`rest_s` later--> one trial --success--> closed, --failure--> open
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """One dependency's breaker. For one event loop; not thread-safe."""

    def __init__(self, failures: int = 5, rest_s: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._rest_s = rest_s
        self._clock = clock
        self._failed = 0
        self._retry_at = 0.0

    def allows(self) -> bool:
        """Whether a call may be tried now; after the rest, one caller at a time is let through."""
        if self._failed < self._limit:
            return True
        if self._clock() < self._retry_at:
            return False
        self._retry_at = self._clock() + self._rest_s
        return True

    def succeeded(self) -> None:
        """A call went well: closed again."""
        self._failed = 0

    def failed(self) -> None:
        """A call failed for a reason that is the dependency's."""
        self._failed += 1
        if self._failed >= self._limit:
            self._retry_at = self._clock() + self._rest_s

    @property
    def rest_s(self) -> float:
        """Seconds until a call may be tried, 0 when it may be now."""
        return max(0.0, self._retry_at - self._clock()) if self._failed >= self._limit else 0.0
