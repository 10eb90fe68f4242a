"""How long each stage of one question took, in milliseconds. Pure but for the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Laps by stage name; starts when it is made. One question, one task: not shared."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._laps: dict[str, float] = {}

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        """Adds the block's time to `stage`, also when the block raises."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: (time.perf_counter() - begin) * 1000})

    def add(self, laps: Mapping[str, float]) -> None:
        """Times that a step measured itself."""
        for stage, spent in laps.items():
            self._laps[stage] = self._laps.get(stage, 0.0) + spent

    def read(self) -> dict[str, float]:
        """All laps so far and `total` since the start."""
        return self._laps | {"total": (time.perf_counter() - self._start) * 1000}
