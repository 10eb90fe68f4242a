"""When a certificate has to be renewed, and that a renewal goes before a new round."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from jobs.experiments.freshness import stale
from services.reranking.certificate import Certificate, Conditions
from services.reranking.profile import neutral
from tests import fakes

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def certificate(**changes):
    values = {
        "group": "standard/en", "price": 0.1, "alpha": 0.02, "delta": 0.1, "n": 500, "p_value": 0.01,
        "risks": {"regret": 0.02}, "split": "s", "source": "tenant", "issued_at": "2026-05-01T00:00:00+00:00",
        "expires_at": "2026-08-01T00:00:00+00:00", "watch": 0.05,
        "conditions": Conditions({"large": "builtin-large@r1 int8 t1"}, "fake", 100, 0),
    }  # fmt: skip
    return Certificate(**{**values, **changes})


def scope(held=None, **changes):
    held = held or certificate()
    profile = replace(neutral(), groups={"standard/en": held}).to_json()
    return replace(fakes.scope(), calibration=profile, **changes)


def test_one_that_holds_is_left_alone():
    assert stale(scope(), NOW) is None


def test_without_a_calibration_of_its_own_there_is_nothing_to_renew():
    assert stale(fakes.scope(), NOW) is None


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (certificate(expires_at="2026-05-20T00:00:00+00:00"), "expired"),
        (certificate(conditions=Conditions({"large": "builtin-large@r1 int8 t1"}, "other parser", 100, 0)), "parser"),
        (
            certificate(conditions=Conditions({"large": "builtin-large@r1 int8 t1"}, "fake", 100, -60)),
            "60% of the corpus",
        ),
    ],
)
def test_what_it_has_outgrown_is_said(held, why):
    assert why in (stale(scope(held), NOW) or "")


def test_an_alarm_voids_it():
    held = certificate()
    assert "alarm" in (stale(scope(held, alarms={"standard/en": held.certificate_id}), NOW) or "")
