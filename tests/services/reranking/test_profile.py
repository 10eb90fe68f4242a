"""Profiles: JSON both ways, whose models they are for, the one that ships."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from services.contracts import CrossEncoderFacts
from services.reranking.features import QUESTION, ROWS
from services.reranking.profile import PRICES, Profile, model_name, neutral, pooled
from tests.services.reranking.questions import profile


def test_a_profile_survives_json() -> None:
    given = replace(profile(5), models={"large": "r1"}, source="tenant")
    again = Profile.from_json(json.loads(json.dumps(given.to_json())))
    assert again.digest == given.digest
    assert again.models == given.models
    assert (again.blend, again.worth, again.source) == (given.blend, given.worth, "tenant")
    logits = np.array([-3.0, 2.0], np.float32)
    assert again.probability(logits).tobytes() == given.probability(logits).tobytes()


def test_it_fits_the_models_that_it_was_measured_with() -> None:
    given = replace(neutral(), models={"large": "r1", "small": "r2"})
    assert given.fits({"large": "r1", "small": "r2"})
    assert given.fits({"large": "r1"})  # the small one is away
    assert not given.fits({"large": "r3"})
    assert not neutral().fits({"large": "r1"})


def test_the_shipped_profile_reads_and_knows_the_features() -> None:
    shipped = pooled()
    assert len(shipped.predictor.center) == len(ROWS) + len(QUESTION)
    assert 0 <= shipped.blend <= 1
    assert shipped.source in ("pooled", "neutral")


def test_prices_rise_from_nothing() -> None:
    assert PRICES[0] == 0
    assert len(PRICES) == 30
    assert list(PRICES) == sorted(set(PRICES))


def test_a_models_name_tells_everything_that_changes_its_logits() -> None:
    facts = CrossEncoderFacts("builtin-large", "0123456789", "int8", "t1", (), (), ())
    assert model_name(facts) == "builtin-large@0123456789 int8 t1"
