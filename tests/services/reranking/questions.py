"""Made-up questions for the policy's tests: a first stage, what both models would say, what is relevant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.contracts import Float32
from services.reranking.calibration import Calibration
from services.reranking.facts import Costs, CostTable, Facts, Role
from services.reranking.predictor import fit
from services.reranking.profile import Profile

COSTS = Costs({"large": CostTable((50, 200), (1.0, 4.0)), "small": CostTable((50, 200), (0.35, 1.4))})


@dataclass(frozen=True)
class Asked:
    """predictor.Logs, and relevant (n,) bool."""

    facts: Facts
    logits: dict[Role, Float32]
    relevant: npt.NDArray[np.bool_]


def asked(seed: int, count: int = 100) -> Asked:
    """Logits of two kinds of passages around what the first stage suggests; question and seed are one."""
    rng = np.random.default_rng(seed)
    fused = np.sort(rng.beta(1.5, 4, count).astype(np.float32))[::-1].copy()
    rank = np.arange(1, count + 1, dtype=np.int32)
    relevant = rng.random(count) < 0.6 * fused**2
    large = (-6 + 3 * fused + rng.normal(0, 1.5) + 8 * relevant + rng.normal(0, 1, count)).astype(np.float32)
    small = (0.6 * large + rng.normal(0, 1.0, count)).astype(np.float32)
    facts = Facts(
        question=np.array([fused[0] - fused[-1]], np.float32),
        rows=np.stack([fused, np.log2(1 + rank)], axis=1).astype(np.float32),
        fused=fused,
        rank=rank,
        tokens=rng.integers(60, 220, count).astype(np.int32),
        flagged=np.zeros(count, np.bool_),
    )
    shuffled = rng.permutation(count)
    return permuted(Asked(facts, {"large": large, "small": small}, relevant), shuffled)


def permuted(one: Asked, order: npt.NDArray[np.int64]) -> Asked:
    """The same question, its candidates in another order."""
    facts = one.facts
    moved = Facts(
        facts.question, facts.rows[order], facts.fused[order], facts.rank[order], facts.tokens[order],
        facts.flagged[order],
    )  # fmt: skip
    return Asked(moved, {role: logits[order] for role, logits in one.logits.items()}, one.relevant[order])


def profile(questions: int = 60) -> Profile:
    """Fitted on made-up questions."""
    return Profile(fit([asked(seed) for seed in range(1000, 1000 + questions)]), {"large": Calibration()}, 0.6)
