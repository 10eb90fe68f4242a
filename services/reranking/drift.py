"""Whether the certified loss still holds in traffic: an e-process on the losses of shadow reranks. Pure.

Null: the mean loss is at most α, whatever came before. Betting that it is more (Waudby-Smith & Ramdas 2023):

    W_t = Π_{i ≤ t} (1 + ν_i · (L_i − α)),   ν_i = clip((m − α) / (v + (m − α)²), 0, 1/(2α))

with m and v the forgetting mean and variance of the losses before i. While the null holds, W ever exceeds 1/δ' with
probability at most δ' (Ville), however long it is watched and whenever it is looked at; so wealth > 20 is an
alarm of which at most one in twenty certificates sees a false one. Nothing is bet while the mean lies below α:
quiet months cost no wealth, and a drift after them is seen as soon as one at the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

ALARM = 20.0  # 1/δ'
MEMORY = 100  # shadow reranks after which a loss weighs 1/e


@dataclass(frozen=True, slots=True)
class Drift:
    """One group's e-process against one certificate; `alarmed_at` is ISO 8601, UTC, once wealth has passed ALARM."""

    certificate: str
    alpha: float
    wealth: float = 1.0
    n: int = 0
    mean: float = 0.0
    variance: float = 0.0
    alarmed_at: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For the control plane."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Drift:
        """What `to_json` wrote."""
        return cls(**value)


def begin(certificate: str, alpha: float) -> Drift:
    """Before the first shadow rerank; `alpha` in (0, 1]."""
    return Drift(certificate, max(alpha, 1e-6), mean=alpha, variance=alpha * (1 - alpha))


def watch(state: Drift, loss: float, at: str) -> Drift:
    """After one more shadow loss in [0, 1], seen at time `at`. An alarm stays: only a new certificate ends it."""
    if not 0 <= loss <= 1:
        raise ValueError("a loss lies in [0, 1]")
    grown = state.wealth * (1 + bet(state) * (loss - state.alpha))
    share = max(1 / (state.n + 2), 1 / MEMORY)
    mean = state.mean + share * (loss - state.mean)
    variance = (1 - share) * (state.variance + share * (loss - state.mean) ** 2)
    alarmed = state.alarmed_at or (at if grown > ALARM else None)
    wealth = float(np.clip(grown, 1e-300, 1e300))
    return replace(state, wealth=wealth, n=state.n + 1, mean=mean, variance=variance, alarmed_at=alarmed)


def bet(state: Drift) -> float:
    """ν of the module's formula, fixed before the loss is seen."""
    edge = state.mean - state.alpha
    return float(np.clip(edge / (state.variance + edge * edge + 1e-12), 0.0, 0.5 / state.alpha))
