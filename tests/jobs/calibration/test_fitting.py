"""A profile is learned from a log: and shrinks to what was known where the log is small or the model no help."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jobs.calibration.fitting import choose_blend, full_order, halves, learn, pairs_of
from jobs.calibration.logs import Logged
from services.reranking.calibration import Calibration, ece
from services.reranking.profile import pooled
from tests.jobs.calibration.logged import logs


def misleading(one: Logged) -> Logged:
    """The large model's word is noise."""
    noise = np.random.default_rng(len(one.query_id)).normal(0, 3, len(one.documents)).astype(np.float32)
    return replace(one, logits={**one.logits, "large": noise})


def test_the_halves_are_disjoint_and_know_no_losses():
    log = logs(40)
    fitted, held = halves(log)
    ids = [one.query_id for one in (*fitted, *held)]
    assert sorted(ids) == sorted(one.query_id for one in log)
    assert len(fitted) == 13
    again, _ = halves(list(reversed(log)))
    assert [one.query_id for one in again] == [one.query_id for one in fitted]


def test_a_helpful_model_gets_weight_and_is_calibrated():
    profile = learn(logs(60), pooled(), "tenant")
    assert profile.blend > 0.2
    assert profile.source == "tenant"
    assert profile.groups == {}
    logits, labels = pairs_of(logs(60, start=500), "large")
    assert ece(profile.calibration["large"].probability(logits), labels) < 0.03


def test_a_useless_model_gets_none():
    log = [misleading(one) for one in logs(60)]
    assert choose_blend(log, Calibration()).blend == 0.0
    assert learn(log, pooled(), "tenant").blend == 0.0


def test_without_weight_the_first_stage_stands():
    one = logs(1)[0]
    assert full_order(one, Calibration(), 0.0).tolist() == np.argsort(one.facts.rank).tolist()


def test_without_labels_the_large_model_stays_and_the_small_one_follows_it():
    base = pooled()
    profile = learn(logs(40, labels=False), base, "tenant")
    assert profile.blend == base.blend
    assert profile.calibration["large"] == base.calibration["large"]
    one = logs(1, labels=False, start=900)[0]
    small = profile.calibration["small"].probability(one.logits["small"])
    assert np.abs(small - profile.probability(one.logits["large"])).mean() < 0.06


def test_a_handful_of_questions_keeps_the_predictor_that_ships():
    assert learn(logs(5), pooled(), "tenant").predictor is pooled().predictor


def test_nothing_scored_leaves_the_base():
    bare = [replace(one, logits={}) for one in logs(3)]
    assert learn(bare, pooled(), "tenant").blend == pooled().blend
