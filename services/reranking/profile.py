"""What was learned for a tenant's reranking (or pooled, from public data), and what was certified of it. Pure.

Criticality weighs a price that a tenant sets itself: WEIGHTS · price. A certified price is stored by group
(`criticality/language`, else `criticality`) and is final: whoever certified it simulated exactly that price.
A price is per unit of cost (`Costs.unit`): DCG@10 that must be expected of the work of one large pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from services.contracts import Float32
from services.reranking.calibration import Calibration
from services.reranking.facts import ROLES, Float64, Role
from services.reranking.predictor import Predictor

PRICES: tuple[float, ...] = (0.0, *(float(f"{price:.3g}") for price in np.geomspace(1e-5, 3e-2, 29)))
WEIGHTS: Mapping[str, float] = {"casual": 2.0, "standard": 1.0, "high": 0.5}
POOLED = Path(__file__).with_name("pooled.json")


@dataclass(frozen=True, slots=True)
class Group:
    """One group's price and what is promised at it; `certificate` None promises nothing. `expires` is ISO 8601.

    `details` is the certificate's own JSON, for people and for the audit.
    """

    price: float = 0.0
    certificate: str | None = None
    alpha: float | None = None
    delta: float | None = None
    n: int = 0
    expires: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def promises(self, now: str) -> bool:
        """Whether a certificate holds at `now`, ISO 8601 in UTC."""
        return self.certificate is not None and (self.expires is None or now < self.expires)

    def to_json(self) -> dict[str, Any]:
        """For the profile."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"details": dict(self.details)}


@dataclass(frozen=True, slots=True)
class Profile:
    """`blend` is β of the final score; `worth` (slope, bias) turns a final score into the probability of relevance.

    `models` are the revisions by role that all this was measured with: another revision voids it. `source` says who
    it was learned from: neutral (nothing was) | pooled | tenant.
    """

    predictor: Predictor
    calibration: Mapping[Role, Calibration]
    blend: float
    worth: tuple[float, float] = (8.0, -6.0)
    models: Mapping[Role, str] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    source: str = "pooled"

    def group(self, criticality: str, language: str | None = None) -> Group:
        """The narrowest group that was certified; an empty one (price 0, no certificate) when none was."""
        narrow = self.groups.get(f"{criticality}/{language}") if language else None
        return narrow or self.groups.get(criticality) or Group()

    def fits(self, models: Mapping[Role, str]) -> bool:
        """Whether these revisions are the ones that this profile was measured with."""
        return all(self.models.get(role) == revision for role, revision in models.items())

    def probability(self, logits: Float32 | Float64) -> Float32:
        """Calibrated probability of large logits, any shape; plain σ where nothing was fitted."""
        return self.calibration.get("large", Calibration()).probability(logits)

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            "predictor": self.predictor.to_json(),
            "calibration": {role: one.to_json() for role, one in self.calibration.items()},
            "blend": self.blend,
            "worth": list(self.worth),
            "models": dict(self.models),
            "groups": {name: group.to_json() for name, group in self.groups.items()},
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Profile:
        """What `to_json` wrote. Raises `KeyError`, `TypeError` for anything else."""
        slope, bias = value["worth"]
        return cls(
            predictor=Predictor.from_json(value["predictor"]),
            calibration={role: Calibration.from_json(value["calibration"].get(role)) for role in ROLES},
            blend=float(value["blend"]),
            worth=(float(slope), float(bias)),
            models=dict(value["models"]),
            groups={name: Group(**group) for name, group in value["groups"].items()},
            source=str(value["source"]),
        )


@lru_cache(maxsize=1)
def pooled() -> Profile:
    """The profile that ships, learned on public data (benchmarks/rerank.py)."""
    return Profile.from_json(json.loads(POOLED.read_text("utf-8")))
