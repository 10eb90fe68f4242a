"""Dev questions through a cross-encoder: nDCG@10 by documents, against the first stage and for several blends. Torch.

A document counts with its best chunk. The blended order is by w · σ(logit) + (1 − w) · fused, so w = 0 is the first
stage; candidates below `depth` keep their fused score times (1 − w), which leaves them below those that were scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from jobs.evaluation.metrics import ndcg
from jobs.training.loop import group_logits
from jobs.training.mining import Mined
from jobs.training.pairs import PairBuilder, rarity, window
from jobs.training.sampling import MAX_QUESTION, Group
from services.contracts import Float32

K = 10
BLENDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_GROUPS = 4


@dataclass(frozen=True, slots=True)
class Check:
    """One dev question: its first `depth` candidates' texts as ids, fused scores, documents; `grades` by document.

    The group's weight is what the question counts in the mean.
    """

    group: Group
    fused: Float32
    documents: tuple[str, ...]
    grades: Mapping[str, int]


def checks_of(mined: Mined, builder: PairBuilder, depth: int, limit: int, max_tokens: int) -> list[Check]:
    """The first `limit` dev questions of a mined source; none when it has none."""
    rows = [row for row in mined.questions.to_pylist() if row["split"] == "dev" and row["ranking"]][:limit]
    names = mined.passages["document_id"].to_pylist()
    wanted = sorted({place for row in rows for place in row["ranking"][:depth]})
    texts = builder.texts([mined.passages["text"][place].as_py() for place in wanted])
    ids = dict(zip(wanted, texts, strict=True))
    rare = rarity(texts)
    questions = builder.texts([row["text"] for row in rows])
    found = []
    for row, question in zip(rows, questions, strict=True):
        question = question[:MAX_QUESTION]
        room = max_tokens - builder.specials - len(question)
        passages = tuple(window(question, ids[place], room, rare) for place in row["ranking"][:depth])
        grades = {names[place]: 1 for place in row["positives"]}
        documents = tuple(names[place] for place in row["ranking"])
        group = Group(question, passages, weight=row["weight"])
        found.append(Check(group, np.asarray(row["fused"], np.float32), documents, grades))
    return found


def score_checks(network: PreTrainedModel, builder: PairBuilder, checks: Sequence[Check]) -> list[Float32]:
    """The (depth,) float32 logits of every question's candidates."""
    network.eval()
    found: list[Float32] = []
    with torch.no_grad():
        for start in range(0, len(checks), _GROUPS):
            part = [check.group for check in checks[start : start + _GROUPS]]
            logits = group_logits(network, builder, part, slices=_GROUPS).cpu().numpy()
            found += [row[: len(group.passages)] for row, group in zip(logits, part, strict=True)]
    return found


def by_blend(checks: Sequence[Check], logits: Sequence[Float32]) -> dict[float, float]:
    """Mean nDCG@10 for every weight of BLENDS; the mean is weighted by what each question counts."""
    counts = [check.group.weight for check in checks]
    return {blend: float(np.average(list(_per_question(checks, logits, blend)), weights=counts)) for blend in BLENDS}


def _per_question(checks: Sequence[Check], logits: Sequence[Float32], blend: float) -> Iterator[float]:
    for check, scores in zip(checks, logits, strict=True):
        final: npt.NDArray[np.float64] = (1.0 - blend) * check.fused.astype(np.float64)
        final[: len(scores)] += blend / (1.0 + np.exp(-scores.astype(np.float64)))
        order = np.argsort(-final, kind="stable")
        yield ndcg(list(dict.fromkeys(check.documents[row] for row in order)), check.grades, K)
