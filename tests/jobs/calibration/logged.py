"""Made-up full reranks for the calibration's tests, from the policy's made-up questions."""

from __future__ import annotations

import numpy as np

from jobs.calibration.logs import Logged
from services.reranking.losses import ideal_dcg
from tests.services.reranking.questions import asked


def logged(seed: int, *, labels: bool = True, count: int = 100) -> Logged:
    """Two chunks a document, graded as relevant as its better chunk."""
    one = asked(seed, count)
    documents = tuple(f"d{row // 2}" for row in range(count))
    one.relevant[int(np.argmin(one.facts.rank))] |= not one.relevant.any()
    by_document = np.repeat(one.relevant.reshape(-1, 2).max(1), 2).astype(np.float32)
    return Logged(
        query_id=f"q{seed}",
        source="made-up",
        language="en",
        facts=one.facts,
        logits=one.logits,
        documents=documents,
        chunks=tuple(f"c{row}" for row in range(count)),
        grades=by_document if labels else None,
        ideal=ideal_dcg(by_document[::2]) if labels else 0.0,
    )


def logs(count: int, *, labels: bool = True, start: int = 0, candidates: int = 100) -> list[Logged]:
    """As many questions, all different."""
    return [logged(seed, labels=labels, count=candidates) for seed in range(start, start + count)]
