"""Learn a tenant's fusion weight: at indexing from the corpus, later from labelled questions. Knows no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jobs.evaluation.metrics import ndcg
from services.contracts import Candidates, Float32, Fusion, Question, Retriever
from services.retrieval.fusion import FusionProfile, best_cosine, blend, fuse
from services.retrieval.learning import WEIGHTS, Float64, corpus_profile, cross_fitted, fit_profile
from services.retrieval.search import sample_texts
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.errors import NotFound
from tenants.scope import Release, TenantScope

SAMPLE_CHUNKS = 1_000
LEASE_WAIT_S = 10.0
K = 10


def learn_profile(scope: TenantScope) -> Mapping[str, Any]:
    """The profile entries of the version that the scope is pinned to; what `jobs.indexing.commit` calls.

    Reads a fixed sample of chunks, evenly spread over the table: milliseconds, and the same for the same rows. A
    profile that was fitted to labels stays: documents that come and go do not outweigh the tenant's own questions.
    """
    known = scope.release.profile.get("fusion") if scope.release else None
    if known and known["source"] == "labels":
        return {"fusion": known}
    return {"fusion": corpus_profile(sample_texts(scope, SAMPLE_CHUNKS)).to_json()}


@dataclass(frozen=True, slots=True)
class Judged:
    """One labelled question's legs, measured at every weight.

    curve (len(WEIGHTS),) float64 nDCG@10; sparse, dense, free: nDCG@10 of each leg alone and of the profile that
    was given; cosine: the best of the dense list; weight: the given profile's.
    """

    curve: Float64
    cosine: float
    sparse: float
    dense: float
    free: float
    weight: float


@dataclass(frozen=True, slots=True)
class Learned:
    """`profile` fitted on all questions; the means are nDCG@10, `labels` cross-fitted over five folds."""

    profile: FusionProfile
    queries: int
    sparse: float
    dense: float
    free: float
    labels: float
    weight_free: float


async def judge(
    retriever: Retriever, scope: TenantScope, text: str, grades: Mapping[str, int], profile: FusionProfile
) -> Judged:
    """Retrieve one question and measure both legs, the given profile and every weight, grouped by document."""
    candidates = await retriever.retrieve(scope, Question(text, group_by="document"))

    def alone(mode: str) -> float:
        listed = candidates.dense_rank > 0 if mode == "dense" else candidates.sparse_rank > 0
        score = np.where(listed, candidates.dense if mode == "dense" else candidates.sparse, -np.inf)
        return ndcg(documents(candidates, score.astype(np.float32))[:K], grades, K)

    fusion: Fusion = fuse(candidates, "hybrid", profile)
    curve = np.array([ndcg(documents(candidates, blend(candidates, weight)), grades, K) for weight in WEIGHTS])
    free = ndcg(documents(candidates, fusion.score), grades, K)
    return Judged(curve, best_cosine(candidates), alone("sparse"), alone("dense"), free, fusion.weight)


def documents(candidates: Candidates, score: Float32) -> list[str]:
    """Documents by their best chunk's score, best first; rows at −inf are left out."""
    order = np.lexsort((-candidates.dense, -score))
    names = (candidates.passages[row].document_id for row in order.tolist() if np.isfinite(score[row]))
    return list(dict.fromkeys(names))


def learn_from_labels(judged: Sequence[Judged]) -> Learned:
    """Fit bias and slope to labelled questions, and say honestly what they gain."""
    curves = np.array([item.curve for item in judged])
    cosines = np.array([item.cosine for item in judged])

    def average(values: Sequence[float]) -> float:
        return float(np.mean(values))

    return Learned(
        profile=fit_profile(curves, cosines),
        queries=len(judged),
        sparse=average([item.sparse for item in judged]),
        dense=average([item.dense for item in judged]),
        free=average([item.free for item in judged]),
        labels=average(cross_fitted(curves, cosines).tolist()),
        weight_free=average([item.weight for item in judged]),
    )


def adopt(scope: TenantScope, profile: FusionProfile) -> Release:
    """Publish the serving version anew with this profile; the rows stay as they are, a rollback undoes it.

    Raises `InFlight` while another writer is at work, `NotFound` when nothing is published.
    """
    with acquire(scope, "fusion", wait_s=LEASE_WAIT_S) as lease:
        serving = releases.current(scope)
        if serving is None:
            raise NotFound("the tenant has no published index; index documents first")
        learned = {**serving.profile, "fusion": profile.to_json()}
        return releases.publish(scope, replace(serving, profile=learned), lease)


def with_profile(scope: TenantScope, profile: FusionProfile) -> TenantScope:
    """The scope as if its version had been published with this profile."""
    if scope.release is None:
        return scope
    return replace(
        scope, release=replace(scope.release, profile={**scope.release.profile, "fusion": profile.to_json()})
    )
