"""One question's full rerank: both cross-encoders on every candidate down to the depth. Ray-free."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jobs.calibration.certifying import DEPTH
from jobs.calibration.logs import Logged
from jobs.calibration.questions import Asked
from services.contracts import Candidates, CrossEncoderFacts, Float32, Fusion, PairScorer, Question, Retriever
from services.reranking.defences import EXAMINED, flags
from services.reranking.facts import ROLES, Role
from services.reranking.features import facts_of
from services.reranking.losses import ideal_dcg
from services.retrieval.fusion import fuse, profile_of
from tenants.errors import InvalidInput, Unavailable
from tenants.scope import TenantScope


class Collector:
    """Asks in one tenant's scope, pinned to a version, as serving would: same legs, same fusion, same features."""

    def __init__(self, scope: TenantScope, retriever: Retriever, scorer: PairScorer) -> None:
        self._scope = scope
        self._retriever = retriever
        self._scorer = scorer

    async def models(self) -> dict[Role, CrossEncoderFacts]:
        """The roles that are served. Raises `Unavailable` without the large one."""
        found: dict[Role, CrossEncoderFacts] = {}
        for role in ROLES:
            try:
                found[role] = await self._scorer.facts(self._scope, self._reference(role))
            except (Unavailable, InvalidInput):
                if role == "large":
                    raise
        return found

    async def collect(self, asked: Asked, roles: tuple[Role, ...]) -> Logged | None:
        """None when nothing is found at all."""
        question = Question(asked.text, group_by="document")
        candidates = await self._retriever.retrieve(self._scope, question)
        if not candidates.passages:
            return None
        fusion = fuse(candidates, "hybrid", profile_of(self._scope))
        suspect = flags(asked.text, candidates, fusion.order[:EXAMINED].tolist()).suspect
        logits = {role: await self._logits(role, asked.text, candidates, fusion) for role in roles}
        documents = tuple(one.document_id for one in candidates.passages)
        return Logged(
            query_id=asked.query_id,
            source=self._scope.uid,
            language=self._scope.config.languages[0],
            facts=facts_of(asked.text, candidates, fusion, suspect),
            logits=logits,
            documents=documents,
            chunks=tuple(one.chunk_id for one in candidates.passages),
            grades=_grades(documents, asked.grades),
            ideal=ideal_dcg([max(0, grade) for grade in asked.grades.values()]) if asked.grades else 0.0,
        )

    async def _logits(self, role: Role, text: str, candidates: Candidates, fusion: Fusion) -> Float32:
        """(n,) float32, NaN beyond the depth."""
        rows = fusion.order[:DEPTH]
        found = np.full(len(candidates.passages), np.nan, np.float32)
        passages = [candidates.passages[row] for row in rows.tolist()]
        found[rows] = (await self._scorer.score(self._scope, self._reference(role), text, passages)).logits
        return found

    def _reference(self, role: Role) -> str:
        return self._scope.config.rerankers.small if role == "small" else self._scope.config.rerankers.large


def _grades(documents: tuple[str, ...], grades: Mapping[str, int] | None) -> Float32 | None:
    if grades is None:
        return None
    return np.array([max(0, grades.get(document, 0)) for document in documents], np.float32)
