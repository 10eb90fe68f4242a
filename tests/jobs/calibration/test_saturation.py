"""κ is found again in questions that were made with it, and is 0 where relevant passages come independently."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jobs.calibration.logs import Logged
from jobs.calibration.saturation import saturation
from services.reranking.facts import Facts
from services.reranking.profile import neutral

PROFILE = replace(neutral(), blend=1.0, worth=(8.0, -4.0))


def questions(kappa: float, count: int = 1_500) -> list[Logged]:
    """Ten rows each: three that are right or wrong, then seven with r / (1 + κ · Σ r of those three)."""
    rng, log = np.random.default_rng(0), []
    for number in range(count):
        logits = np.array([*rng.choice([-8.0, 6.0], 3), *[-2.0] * 7], np.float32)
        r = 1 / (1 + np.exp(4.0 - 8.0 * PROFILE.probability(logits)))
        right = rng.random(10) < r
        right[3:] = rng.random(7) < r[3:] / (1 + kappa * r[:3].sum())
        facts = Facts(
            np.zeros(1, np.float32), np.zeros((10, 1), np.float32), np.zeros(10, np.float32),
            np.arange(1, 11, dtype=np.int32), np.full(10, 99, np.int32), np.zeros(10, np.bool_),
        )  # fmt: skip
        names = tuple(map(str, range(10)))
        log.append(
            Logged(str(number), "made", "en", facts, {"large": logits}, names, names, right.astype(np.float32), 1.0)
        )
    return log


@pytest.mark.parametrize("kappa", [0.0, 1.0, 4.0])
def test_it_is_found_again(kappa: float) -> None:
    assert saturation(questions(kappa), PROFILE) == pytest.approx(kappa, abs=0.25 + kappa / 2)


def test_without_labels_it_stays() -> None:
    unlabelled = [replace(one, grades=None) for one in questions(1.0, 5)]
    assert saturation(unlabelled, replace(PROFILE, saturation=0.7)) == 0.7
