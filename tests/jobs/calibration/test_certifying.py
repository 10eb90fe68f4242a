"""Every price in one run, and the certificate that follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from jobs.calibration.certifying import Issue, certify, replay, verdicts, with_certificates
from jobs.calibration.logs import Logged
from services.reranking.certificate import Conditions, standing
from services.reranking.facts import Limits
from services.reranking.policy import simulate
from services.reranking.profile import PRICES, Profile
from tests.jobs.calibration.logged import logs
from tests.services.reranking.questions import COSTS, profile

NOW = datetime(2026, 11, 26, tzinfo=UTC)
MODELS = {"large": "builtin-large@r1 int8 t1"}
ISSUE = Issue("en", Conditions(MODELS, "print", 1_000, 0), "tenant", NOW)


@pytest.fixture(scope="module")
def fitted() -> Profile:
    return profile()


def test_one_run_gives_what_every_price_alone_would(fitted: Profile):
    prices = (0.0, 1e-5, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    for one in logs(6):
        found = verdicts(one, fitted, prices, COSTS)
        alone = [simulate(one.facts, one.logits, fitted, price, COSTS, Limits(depth=100)) for price in prices]
        assert [verdict.pairs for verdict in found] == [verdict.pairs for verdict in alone]
        for ours, theirs in zip(found, alone, strict=True):
            assert np.array_equal(ours.order, theirs.order)
            assert ours.spent == pytest.approx(theirs.spent)


def test_the_losses_begin_at_zero_and_the_pairs_fall(fitted: Profile):
    found = replay(logs(8), fitted, PRICES, COSTS)
    assert found.losses["regret"][:, 0] == pytest.approx(0.0)
    assert found.losses["evidence"][:, 0] == pytest.approx(0.0)
    assert found.quality[:, 0] == pytest.approx(found.full)
    assert found.pairs[:, 0] == pytest.approx(found.full_pairs)
    assert (np.diff(found.pairs[:, 1:], axis=1) <= 0).all()
    assert found.risks() == ("regret", "evidence")


def test_without_labels_the_agreement_is_what_is_bounded(fitted: Profile):
    found = replay(logs(4, labels=False), fitted, PRICES, COSTS)
    assert found.risks() == ("fidelity", "evidence")
    assert "regret" not in found.losses
    assert np.isnan(found.quality).all()


@pytest.fixture(scope="module")
def many(fitted: Profile) -> tuple[list[Logged], object]:
    """A model with little weight: most of its pairs can be spared, so there is something to certify."""
    log = logs(320, candidates=20)
    return log, replay(log, replace(fitted, blend=0.1), PRICES[::3], COSTS)


def test_a_certificate_names_what_it_holds_for(fitted: Profile, many: tuple[list[Logged], object]):
    log, found = many
    made = certify(log, found, "standard", ISSUE)
    assert made is not None
    assert (made.group, made.n, made.alpha, made.delta, made.source) == ("standard/en", 320, 0.02, 0.1, "tenant")
    assert 0 < made.price < PRICES[-1] + 1
    assert made.p_value <= made.delta
    last = found.prices.index(made.price)
    assert found.losses["regret"][:, last].mean() < 0.02
    assert made.watch >= found.losses["fidelity"][:, last].mean()
    assert made.expires_at == (NOW + timedelta(days=90)).isoformat()
    served = Profile.from_json(with_certificates(fitted, [made]).to_json())
    assert standing(served.groups, "standard/en", ISSUE.conditions, NOW, {}).price == made.price


def test_too_few_questions_certify_nothing(fitted: Profile, many: tuple[list[Logged], object]):
    log, found = many
    assert certify(log[:299], found, "standard", ISSUE) is None
    assert certify(log, found, "high", ISSUE) is None, "high needs a thousand"
    assert certify(log, found, "casual", ISSUE) is not None
