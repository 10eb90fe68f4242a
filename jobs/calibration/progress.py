"""How far a calibration is: stage, count, rate and time left, as one line. Ray-free."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

LINE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """`done` of `of` questions; `rate` a second and `left_s` seconds since the stage began, None before the first."""

    stage: str
    done: int
    of: int
    rate: float
    left_s: float | None

    def __str__(self) -> str:
        left = "" if self.left_s is None else f", {self.left_s:.0f} s left"
        return f"{self.stage}: {self.done}/{self.of} questions, {self.rate:.1f}/s{left}"


class Paced:
    """job.Show that hands on a `Pace`: whenever the stage changes, else at most every `every_s` seconds."""

    def __init__(
        self,
        show: Callable[[Pace], None],
        every_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show, self._every_s, self._clock = show, every_s, clock
        self._stage, self._began, self._due = "", 0.0, 0.0

    def __call__(self, stage: str, done: int, of: int) -> None:
        """One more question is done."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._began, self._due = stage, now, now
        if now < self._due and done < of:
            return
        self._due = now + self._every_s
        rate = done / (now - self._began) if now > self._began else 0.0
        self._show(Pace(stage, done, of, rate, (of - done) / rate if rate > 0 else None))
