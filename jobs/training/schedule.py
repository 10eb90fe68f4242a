"""How far a training run is, by the clock or by steps, and the learning rate that follows from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WARM_UP = 0.1


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend: `seconds` of wall clock, `steps`, or both; whichever is nearer to its end counts."""

    seconds: float | None = None
    steps: int | None = None

    def progress(self, elapsed: float, step: int) -> float:
        """In [0, 1]; 1 = spent. `elapsed` counts the seconds before an interruption too."""
        by_clock = elapsed / self.seconds if self.seconds else 0.0
        by_steps = step / self.steps if self.steps else 0.0
        return min(1.0, max(by_clock, by_steps))


def rate(progress: float, peak: float, warm_up: float = WARM_UP) -> float:
    """Linear from 0 to `peak` over the first `warm_up` of the budget, then linear to 0 at its end."""
    if progress < warm_up:
        return peak * progress / warm_up
    return peak * (1.0 - progress) / (1.0 - warm_up)
