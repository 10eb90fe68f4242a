"""What the policy knows of one question before any pair is scored, what a pair costs, and what may be spent. Pure.

A role is one of the tenant's two cross-encoders: `large` decides, `small` is the cheaper one that informs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from services.contracts import Bool, CrossEncoderFacts, Float32, Int32

Role = Literal["small", "large"]
ROLES: tuple[Role, ...] = ("small", "large")

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Facts:
    """One question after the first stage, n candidates in no order that matters.

    question (Q,) float32 and rows (n, R) float32: features.py's, named there
    fused    (n,) float32 in [0, 1], higher is better; rank (n,) int32, 1-based, every number once
    tokens   (n,) int32 of the whole pair; flagged (n,) bool: suspected of stuffing, so only the large model may judge
    """

    question: Float32
    rows: Float32
    fused: Float32
    rank: Int32
    tokens: Int32
    flagged: Bool

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Every array by name: what a log or an audit record keeps; `from_columns` reads it back."""
        return {name: getattr(self, name) for name in _TYPES}

    @classmethod
    def from_columns(cls, columns: Mapping[str, npt.ArrayLike]) -> Facts:
        """`columns` may hold nested lists and more names than needed; raises `KeyError` for a missing one."""
        values = {name: np.asarray(columns[name], dtype=kind) for name, kind in _TYPES.items()}
        values["rows"] = values["rows"].reshape(len(values["fused"]), -1)
        return cls(**values)


_TYPES: Mapping[str, type[np.generic]] = {
    "question": np.float32,
    "rows": np.float32,
    "fused": np.float32,
    "rank": np.int32,
    "tokens": np.int32,
    "flagged": np.bool_,
}


@dataclass(frozen=True, slots=True)
class CostTable:
    """One model's `cost[i]` per pair of `tokens[i]` tokens (ascending), in milliseconds or GFLOP."""

    tokens: tuple[int, ...]
    cost: tuple[float, ...]

    def of(self, tokens: npt.ArrayLike) -> Float64:
        """Per pair, interpolated; a pair beyond the table is scored in windows, so it costs in proportion."""
        length = np.asarray(tokens, np.float64)
        longest = float(self.tokens[-1])
        inside = np.interp(length, self.tokens, self.cost)
        return np.where(length > longest, self.cost[-1] * length / longest, inside)


@dataclass(frozen=True, slots=True)
class Costs:
    """What pairs cost by role; a role that is not served is absent. `call` is paid once per batch, any size.

    `unit` is the cost of one large pair of REFERENCE_TOKENS: prices are per unit, so a profile that was fitted on
    one machine means the same on a faster one.
    """

    tables: Mapping[Role, CostTable]
    call: float = 0.0

    @property
    def unit(self) -> float:
        """See the class; of the small model where only that is served."""
        table = self.tables.get("large") or self.tables["small"]
        return float(table.of(REFERENCE_TOKENS))

    @classmethod
    def measured(cls, models: Mapping[Role, CrossEncoderFacts], call_ms: float = 2.0) -> Costs:
        """Milliseconds, from what the replicas measured of themselves."""
        return cls({role: CostTable(one.cost_tokens, one.cost_ms) for role, one in models.items()}, call_ms)

    @classmethod
    def work(cls, models: Mapping[Role, CrossEncoderFacts]) -> Costs:
        """GFLOP: a cost that no machine's load moves, for comparisons."""
        return cls({role: CostTable(one.cost_tokens, one.gflop) for role, one in models.items()})


REFERENCE_TOKENS = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """`depth` best fused candidates may be scored; `budget` in the unit of the costs; `pairs` of the tenant's quota."""

    depth: int = 100
    budget: float = math.inf
    pairs: int | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """Score `rows` (candidate rows, best fused first) with `kind`, or stop.

    `gain` is the expected rise of DCG@10, `cost` the predicted cost in the unit of the costs; `rate` is what the price
    was compared with: infinite where no price counts, −1 for a stop. `why` names a stop:
    worth (nothing is worth its price) | complete (all is scored) | budget | pairs | failed | asked.
    """

    kind: Literal["small", "large", "stop"]
    rows: Int32 = field(default_factory=lambda: np.empty(0, np.int32))
    gain: float = 0.0
    cost: float = 0.0
    rate: float = -1.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """An action that was taken and what it told: logits (b,) float32, cached (b,) bool, in `action.rows`' order."""

    action: Action
    logits: Float32
    cached: Bool
    elapsed: float
