"""Redoes the order of an audit record from what it holds, and says whether it is the same to the last bit. Pure.

    lists and weight → fused → β·expected + (1 − β)·fused → defences → order (→ team draft of two orders)

Every float32 is compared bit by bit. Only p of a logit is compared within ROUNDING: processors differ in the last bits
of exp and log, so the order uses the recorded p, and what the logit says must round to it. Records of format 1 and
questions without a reranking policy are ordered by the fused score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.contracts import Float32
from services.experiments.interleaving import team_draft
from services.reranking.calibration import Calibration
from services.reranking.defences import capped, held
from services.reranking.valuation import final_score
from services.retrieval.fusion import minmax

ROUNDING = 1e-6

_Columns = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    """`order` chunk ids as redone, best first; `differences` in words, none = identical."""

    order: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether the record's order and every score on the way came out again."""
        return not self.differences


def replay(record: Mapping[str, Any]) -> Replay:
    """`record` as `GET …/queries/{id}` gives it. Raises `KeyError` for what is no record of a question."""
    columns, policy = record["candidates"], record.get("policy")
    differences = [*_fusion_faults(columns, float(record["fusion"]["weight"]))]
    score = _floats(columns["fused"])
    if policy is not None:
        differences += _policy_faults(columns, policy)
        score = _defended(columns)
        differences += _unlike("score", score, columns["score"])
    order = np.lexsort((np.array(columns["fused_rank"], np.int64), -score))
    if order.tolist() != list(range(len(order))):
        differences.append("the order is another one")
    redone = Replay(tuple(columns["chunk_id"][row] for row in order), tuple(differences))
    return redone if record.get("interleaved") is None else _interleaved(redone, record["interleaved"])


def _interleaved(control: Replay, told: Mapping[str, Any]) -> Replay:
    """Both rankings redone, and the list that was drafted from them."""
    rival = replay(told["rival"])
    differences = [*control.differences, *(f"the rival's: {one}" for one in rival.differences)]
    row = {chunk: number for number, chunk in enumerate(control.order)}
    draft = team_draft(range(len(row)), [row[chunk] for chunk in rival.order], int(told["seed"]))
    order = tuple(control.order[number] for number in draft.order)
    if list(order) != told["order"] or list(draft.teams) != told["teams"]:
        differences.append("the interleaved list is another one")
    return Replay(order, tuple(differences))


def _fusion_faults(columns: _Columns, weight: float) -> Iterator[str]:
    dense, sparse = _floats(columns["dense"]), _floats(columns["sparse"])
    in_dense, in_sparse = (np.array(columns[name], np.int64) > 0 for name in ("dense_rank", "sparse_rank"))
    fused = weight * minmax(dense, in_dense) + (1.0 - weight) * minmax(sparse, in_sparse)
    yield from _unlike("fused", fused.astype(np.float32), columns["fused"])
    rank = np.array(columns["fused_rank"], np.int64)
    by_rank, recorded = np.argsort(rank), _floats(columns["fused"])
    by_score = np.lexsort((rank, -dense, -recorded))
    if by_rank.tolist() != by_score.tolist() or sorted(rank.tolist()) != list(range(1, len(rank) + 1)):
        yield "fused_rank is not the order of fused"


def _policy_faults(columns: _Columns, policy: Mapping[str, Any]) -> Iterator[str]:
    expected, fused = _floats(columns["expected"]), _floats(columns["fused"])
    yield from _unlike("ranked", final_score(float(policy["blend"]), expected, fused), columns["ranked"])
    said: dict[str, Float32] = {role: np.full(len(fused), np.nan, np.float32) for role in ("large", "small")}
    for step in policy["steps"]:
        said[step["kind"]][step["at"]] = _floats(step["logits"])
    for role, logits in said.items():
        yield from _unlike(role, logits, columns[role])
    known = np.isfinite(said["large"])
    opinion = Calibration.from_json(policy["calibration"].get("large")).opinion(said["large"][known])
    if known.any() and float(np.abs(opinion - expected[known]).max()) > ROUNDING:
        yield "expected is not what the logits are calibrated to"


def _defended(columns: _Columns) -> Float32:
    rank = np.array(columns["fused_rank"], np.int32)
    seconded = (np.array(columns["dense_rank"]) > 0) & (np.array(columns["sparse_rank"]) > 0)
    return held(capped(_floats(columns["ranked"]), rank, seconded), np.array(columns["hostile"], np.bool_))


def _unlike(name: str, redone: Float32, recorded: Any) -> Iterator[str]:
    wrong = int((redone.view(np.uint32) != _floats(recorded).view(np.uint32)).sum())
    if wrong:
        yield f"{name} of {wrong} candidates differs"


def _floats(values: Any) -> Float32:
    return np.array([np.nan if value is None else value for value in values], np.float32)
