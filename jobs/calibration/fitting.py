"""A log of full reranks becomes a profile: predictor, calibrations, worth, and how much a logit may weigh. Ray-free.

    predictor    of the large model's logits (services/reranking/predictor.py); needs no labels
    calibration  by role, to "is relevant" with labels; without any, the large model's stays as it was and the small
                 one's is fitted to what the large one says
    blend β      over BLENDS, of the full rerank's final score β·opinion + (1 − β)·fused: the smallest whose mean
                 nDCG@10 is within one standard error (of the paired difference) of the best one's, and 0 unless the
                 best one beats the first stage by more than its standard error. So β shrinks to zero where the model
                 does not help. Without labels β stays as it was.
    saturation   how much less probable others are once relevant ones were found (saturation.py)
    worth        logistic regression of relevance on the full rerank's final score; what policy.py counts as gain

Everything is shrunk to the `base` profile where the log is small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from jobs.calibration.logs import Logged
from jobs.calibration.saturation import saturation
from services.contracts import Float32
from services.reranking.calibration import Calibration, fit_calibration
from services.reranking.facts import ROLES, Role
from services.reranking.predictor import fit
from services.reranking.profile import Profile

BLENDS = tuple(round(0.05 * step, 2) for step in range(21))
ENOUGH = 30  # questions from which a predictor of one's own is worth more than the base's
WORTH_PRIOR = 50.0
FIT_SHARE, FIT_LEAST = 0.25, 100

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Blended:
    """What choosing β saw: mean nDCG@10 (len(BLENDS),) of the full rerank, and its gain over the first stage."""

    blend: float
    quality: Float64
    gain: float
    error: float


def halves(log: Sequence[Logged]) -> tuple[list[Logged], list[Logged]]:
    """(to fit on, to certify on): disjoint questions in the order of their ids' digests, which knows no losses.

    A quarter is fitted on, at least FIT_LEAST; of a small log a third.
    """
    ranked = sorted(log, key=lambda one: blake3(one.query_id.encode()).digest())
    size = min(max(round(FIT_SHARE * len(ranked)), FIT_LEAST), len(ranked) // 3)
    return ranked[:size], ranked[size:]


def learn(log: Sequence[Logged], base: Profile, source: str) -> Profile:
    """The profile of these questions; `models` and `groups` are the caller's to set: none of the base's hold."""
    scored = [one for one in log if "large" in one.logits and np.isfinite(one.logits["large"]).any()]
    if not scored:
        return replace(base, groups={})
    predictor = fit(scored) if len(scored) >= ENOUGH else base.predictor
    calibration = calibrations(scored, base.calibration)
    profile = replace(base, predictor=predictor, calibration=calibration, groups={}, source=source)
    labelled = [one for one in scored if one.labelled]
    if labelled:
        profile = replace(profile, blend=choose_blend(labelled, calibration["large"]).blend)
    profile = replace(profile, worth=_worth(scored, profile))
    return replace(profile, saturation=saturation(scored, profile))


def calibrations(log: Sequence[Logged], base: Mapping[Role, Calibration]) -> dict[Role, Calibration]:
    """By role, see the module; each question weighs alike, however many candidates it had."""
    labelled = [one for one in log if one.labelled]
    found = dict(base)
    if labelled:
        for role in ROLES:
            some = [one for one in labelled if role in one.logits]
            if some:
                found[role] = _calibrated([(one.logits[role], _relevant(one)) for one in some], base.get(role))
        return found
    large = base.get("large", Calibration())
    both = [one for one in log if "small" in one.logits]
    if both:
        soft = [(one.logits["small"], large.probability(one.logits["large"])) for one in both]
        found["small"] = _calibrated(soft, base.get("small"))
    return found


def choose_blend(log: Sequence[Logged], calibration: Calibration) -> Blended:
    """β by the labels of at least one question, see the module."""
    quality = np.array([[one.quality(full_order(one, calibration, blend)) for blend in BLENDS] for one in log])
    mean = quality.mean(0)
    best = int(mean.argmax())
    gain, error = _paired(quality[:, best] - quality[:, 0])
    if gain <= error:
        return Blended(0.0, mean, gain, error)
    for place, blend in enumerate(BLENDS):
        lost, doubt = _paired(quality[:, best] - quality[:, place])
        if lost <= doubt:
            return Blended(blend, mean, *_paired(quality[:, place] - quality[:, 0]))
    return Blended(BLENDS[best], mean, gain, error)


def full_order(one: Logged, calibration: Calibration, blend: float) -> npt.NDArray[np.intp]:
    """Rows by the full rerank's final score; a row that was not scored counts at its fused score alone."""
    score = final_score(one, calibration, blend)
    return np.lexsort((one.facts.rank, -score))


def final_score(one: Logged, calibration: Calibration, blend: float) -> Float64:
    """(n,) β·opinion + (1 − β)·fused."""
    opinion = calibration.opinion(one.logits["large"]).astype(np.float64)
    fused = one.facts.fused.astype(np.float64)
    score: Float64 = blend * np.where(np.isnan(opinion), 0.0, opinion) + (1 - blend) * fused
    return score


def pairs_of(log: Sequence[Logged], role: Role) -> tuple[Float32, Float32]:
    """(logits, 1 = relevant) of every scored pair of labelled questions, one after another."""
    some = [(one.logits[role], _relevant(one)) for one in log if one.labelled and role in one.logits]
    if not some:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    logits, labels = (np.concatenate(part) for part in zip(*some, strict=True))
    kept = np.isfinite(logits)
    return logits[kept], labels[kept]


def _calibrated(pairs: Sequence[tuple[Float32, Float32]], prior: Calibration | None) -> Calibration:
    logits, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return fit_calibration(logits, labels, prior=prior)


def _relevant(one: Logged) -> Float32:
    assert one.grades is not None
    return (one.grades > 0).astype(np.float32)


def _paired(difference: Float64) -> tuple[float, float]:
    """Mean and its standard error; a single question proves nothing."""
    count = len(difference)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(count)) if count > 1 else 1.0


def _worth(log: Sequence[Logged], profile: Profile) -> tuple[float, float]:
    """(slope > 0, bias) by penalised likelihood; without labels the large model's probability stands for relevance."""
    large = profile.calibration["large"]
    score = np.concatenate([final_score(one, large, profile.blend) for one in log])
    label = np.concatenate(
        [_relevant(one) if one.labelled else np.nan_to_num(profile.probability(one.logits["large"])) for one in log]
    ).astype(np.float64)
    centre = np.array(profile.worth)
    weights = centre.copy()
    design = np.stack([score, np.ones_like(score)], axis=1)
    ridge = WORTH_PRIOR * np.diag([0.01, 0.01])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -50, 50)))
        gradient = design.T @ (p - label) + ridge @ (weights - centre)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()) / 5)
        if float(np.abs(step).max()) < 1e-6:
            break
    return max(float(weights[0]), 0.1), float(weights[1])
