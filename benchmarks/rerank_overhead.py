"""What the policy itself takes: milliseconds a question of 100 candidates, from the free features to the last decision.

    python -m benchmarks.rerank_overhead [--questions 300] [--price 0.002]

Questions, vectors and logits are made up (fixed seed); the predictor is fitted on such questions, so that decisions go
through several batches. Prints percentiles of wall time by part, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace

import numpy as np

from services.contracts import Candidates, Float32, Fusion, Passage, Span
from services.reranking.facts import Costs, CostTable, Facts, Limits, Role
from services.reranking.features import facts_of
from services.reranking.policy import conclude, decide, observe, start
from services.reranking.predictor import fit
from services.reranking.profile import Profile, neutral
from services.retrieval.fusion import FusionProfile, fuse

COUNT, WIDTH = 100, 384
TEXT = "which of these settings limits the memory of a query"
COSTS = Costs({"large": CostTable((64, 256), (4.0, 16.0)), "small": CostTable((64, 256), (1.0, 4.0))}, call=1.0)


@dataclass(frozen=True)
class Made:
    """One question and what both models would say; predictor.Logs."""

    candidates: Candidates
    fusion: Fusion
    facts: Facts
    logits: dict[Role, Float32]


def made(seed: int) -> Made:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(COUNT, WIDTH)).astype(np.float32) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    dense = np.sort(rng.beta(2, 3, COUNT).astype(np.float32))[::-1].copy()
    sparse = np.maximum(0, 20 * dense + rng.normal(0, 5, COUNT)).astype(np.float32)
    found = Candidates(
        passages=tuple(_passage(number) for number in range(COUNT)),
        dense=dense,
        sparse=sparse,
        dense_rank=np.arange(1, COUNT + 1, dtype=np.int32),
        sparse_rank=(np.argsort(np.argsort(-sparse)) + 1).astype(np.int32),
        vectors=vectors,
        query_vector=vectors[0],
    )
    fusion = fuse(found, "hybrid", FusionProfile())
    right = rng.random(COUNT) < 0.3 * fusion.score**3
    large = (-6 + 3 * fusion.score + rng.normal(0, 1) + 8 * right + rng.normal(0, 1.5, COUNT)).astype(np.float32)
    small = (0.7 * large + rng.normal(0, 1, COUNT)).astype(np.float32)
    return Made(found, fusion, facts_of(TEXT, found, fusion), {"large": large, "small": small})


def _passage(number: int) -> Passage:
    return Passage(
        f"c_{number}", f"d_{number}", "", "", "", "default", 0, Span(0, 0), None, None, {}, 180, bytes(4 * 180)
    )  # fmt: skip


def timed(one: Made, profile: Profile, price: float) -> tuple[float, float, int]:
    """(ms of the features, ms of the policy, batches)."""
    began = time.perf_counter()
    facts = facts_of(TEXT, one.candidates, one.fusion)
    seen = time.perf_counter()
    state = start(facts, profile, price, COSTS, Limits())
    while (action := decide(state)).kind != "stop":
        said = one.logits[action.kind][action.rows]
        state = observe(state, action, said, np.zeros(len(said), np.bool_), action.cost)
    conclude(state, action.why)
    return (seen - began) * 1000, (time.perf_counter() - seen) * 1000, len(state.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--price", type=float, default=0.002)
    args = parser.parse_args()
    profile = replace(neutral(), predictor=fit([made(seed) for seed in range(1_000, 1_060)]))
    for seed in range(20):
        timed(made(seed), profile, args.price)
    rows = np.array([timed(made(seed), profile, args.price) for seed in range(args.questions)])
    report = {
        name: dict(zip(("p50", "p95"), np.round(np.percentile(column, [50, 95]), 3).tolist(), strict=True))
        for name, column in zip(("features_ms", "policy_ms", "batches"), rows.T, strict=True)
    }
    print(json.dumps(report | {"candidates": COUNT, "price": args.price}))


if __name__ == "__main__":
    main()
