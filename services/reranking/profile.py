"""What was learned for a tenant's reranking (or pooled, from public data), and what was certified of it. Pure.

Criticality weighs a price that a tenant sets itself: WEIGHTS · price. A certified price is final: whoever certified
it for a group simulated exactly that price. A price is per unit of cost (`Costs.unit`): the rise of nDCG@10 that must
be expected of the work of one large pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from services.contracts import CrossEncoderFacts, Float32
from services.reranking.calibration import Calibration
from services.reranking.certificate import Certificate
from services.reranking.facts import ROLES, Float64, Role
from services.reranking.features import QUESTION, ROWS
from services.reranking.predictor import Predictor, Scale

PRICES: tuple[float, ...] = (0.0, *(float(f"{price:.3g}") for price in np.geomspace(2e-4, 4e-2, 29)))
WEIGHTS: Mapping[str, float] = {"casual": 2.0, "standard": 1.0, "high": 0.5}
POOLED = Path(__file__).with_name("pooled.json")


@dataclass(frozen=True, slots=True)
class Profile:
    """`blend` is β of the final score; `worth` (slope, bias) turns a final score into the probability of relevance.
    `saturation` κ ≥ 0: where relevant passages were found, others are 1/(1 + κ · their number) times as probable.

    `models` are the revisions by role that all this was measured with: another revision voids it. `groups` are the
    certificates by certificate.py's `group_of`, each with its own price. `source` is where it was learned: neutral
    (nothing was), pooled or tenant.
    """

    predictor: Predictor
    calibration: Mapping[Role, Calibration]
    blend: float
    worth: tuple[float, float] = (8.0, -6.0)
    saturation: float = 0.0
    models: Mapping[Role, str] = field(default_factory=dict)
    groups: Mapping[str, Certificate] = field(default_factory=dict)
    source: str = "pooled"

    def fits(self, models: Mapping[Role, str]) -> bool:
        """Whether these revisions are the ones that this profile was measured with."""
        return all(self.models.get(role) == revision for role, revision in models.items())

    def probability(self, logits: Float32 | Float64) -> Float32:
        """Calibrated probability of large logits, any shape; plain σ where nothing was fitted."""
        return self.calibration.get("large", Calibration()).probability(logits)

    def opinion(self, logits: Float32 | Float64) -> Float32:
        """`Calibration.opinion` of large logits, any shape: what the final score blends."""
        return self.calibration.get("large", Calibration()).opinion(logits)

    def relevance(self, score: Float32 | Float64) -> Float64:
        """Same shape: the probability of relevance that final scores stand for, see `worth`."""
        slope, bias = self.worth
        value: Float64 = 1.0 / (1.0 + np.exp(-(slope * np.asarray(score, np.float64) + bias)))
        return value

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            "predictor": self.predictor.to_json(),
            "calibration": {role: self.calibration.get(role, Calibration()).to_json() for role in ROLES},
            "blend": self.blend,
            "worth": list(self.worth),
            "saturation": self.saturation,
            "models": dict(self.models),
            "groups": {name: group.to_json() for name, group in self.groups.items()},
            "source": self.source,
        }

    @property
    def digest(self) -> str:
        """Names the whole profile: 128 bits of blake3 of its JSON."""
        return blake3(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:32]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Profile:
        """What `to_json` wrote. Raises `KeyError`, `TypeError` for anything else."""
        slope, bias = value["worth"]
        return cls(
            predictor=Predictor.from_json(value["predictor"]),
            calibration={role: Calibration.from_json(value["calibration"].get(role)) for role in ROLES},
            blend=float(value["blend"]),
            worth=(float(slope), float(bias)),
            saturation=float(value["saturation"]),
            models=dict(value["models"]),
            groups={name: Certificate.from_json(group) for name, group in value["groups"].items()},
            source=str(value["source"]),
        )


@lru_cache(maxsize=1)
def neutral() -> Profile:
    """What is assumed of models that nothing was learned of: logits of usual size, a fifth of the say, no certificate.

    With the models that ship a fifth gains on five of six labelled sets and loses .001 on one; half of the say gains
    more on two and loses on three (docs/results/reranking.md).
    """
    size = len(ROWS) + len(QUESTION)
    scale = Scale(np.array([-12.0, 4.0]), np.array([-4.0, 4.0]))
    predictor = Predictor(
        center=np.zeros(size),
        scale=np.ones(size),
        weights=np.array([-1.0, *np.zeros(size)]),
        omega=np.eye(2),
        noise=1.5,
        large=scale,
        small=scale,
        offset=0.0,
        slope=1.0,
        small_noise=1.5,
        edges=np.arange(-3.0, 4.0),
        levels=2.0 * np.arange(-3.5, 4.0) - 4.0,
    )
    return Profile(predictor, {role: Calibration() for role in ROLES}, blend=0.2, source="neutral")


def model_name(facts: CrossEncoderFacts) -> str:
    """How certificate.py's `Conditions` names a served model."""
    return f"{facts.reference}@{facts.revision} {facts.dtype} {facts.tokenizer}"


@lru_cache(maxsize=1)
def pooled() -> Profile:
    """The profile that ships, learned on public data (benchmarks/rerank.py)."""
    return Profile.from_json(json.loads(POOLED.read_text("utf-8")))
