"""What a pair costs in traffic: the table measured at start-up, scaled by how long real batches take.

A replica that starts measures beside everything else that starts; without this its prices would stay too high for as
long as it lives. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from services.contracts import CrossEncoderFacts

SMOOTHING = 0.1
WIDEST = 10.0  # the scale stays within [1 / WIDEST, WIDEST]
FEWEST_PAIRS = 4  # smaller batches say more of the call than of the pairs


class ObservedCost:
    """One model's prices; written by its worker, read by anybody. `scale` 1 = as measured at start-up."""

    def __init__(self, facts: CrossEncoderFacts) -> None:
        self._facts = facts
        self.scale = 1.0

    def note(self, tokens: Sequence[int], elapsed_ms: float) -> None:
        """A batch of pairs with so many tokens each took so long."""
        if len(tokens) < FEWEST_PAIRS or not self._facts.cost_tokens:
            return
        longest = self._facts.cost_tokens[-1]
        windows = np.ceil(np.asarray(tokens) / longest)
        each = np.interp(np.minimum(tokens, longest), self._facts.cost_tokens, self._facts.cost_ms)
        expected_ms = float((windows * each).sum())
        if expected_ms > 0:
            ratio = min(max(elapsed_ms / expected_ms, 1 / WIDEST), WIDEST)
            self.scale += SMOOTHING * (ratio - self.scale)

    def facts(self) -> CrossEncoderFacts:
        """The model's facts at today's prices."""
        return replace(self._facts, cost_ms=tuple(cost * self.scale for cost in self._facts.cost_ms))
