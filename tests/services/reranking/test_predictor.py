"""The predictor: closed forms against the textbook's matrices, and what it recovers from made-up logs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from services.reranking.facts import Facts
from services.reranking.predictor import Predictor, fit
from tests.services.reranking.questions import Asked, asked


def test_the_posterior_is_the_joint_gaussians() -> None:
    one = asked(4, 6)
    predictor = fit([asked(seed) for seed in range(30)])
    prior = predictor.prior(one.facts)
    large, small = np.full(6, np.nan, np.float32), np.full(6, np.nan, np.float32)
    large[[0, 3]], small[[3, 5]] = [1.0, -4.0], [9.0, 2.0]  # the small model's word on row 3 no longer counts
    got = predictor.posterior(prior, large, small)

    u = prior.effects
    cov = u @ predictor.omega @ u.T + predictor.noise**2 * np.eye(6)
    rho = (predictor.small_noise / predictor.slope) ** 2
    told = [0, 3, 5]
    values = np.array([1.0, -4.0, (2.0 - predictor.offset) / predictor.slope]) - prior.mean[told]
    inner = np.linalg.inv(cov[np.ix_(told, told)] + np.diag([0, 0, rho]))
    mean = prior.mean + cov[:, told] @ inner @ values
    variance = np.diag(cov - cov[:, told] @ inner @ cov[told, :])
    np.testing.assert_allclose(got.mean, mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got.spread**2, variance, rtol=1e-6, atol=1e-6)


def test_fitting_recovers_what_the_logs_were_made_with() -> None:
    rng = np.random.default_rng(0)

    def one(seed: int) -> Asked:
        base = asked(seed)
        shift = rng.normal(0, 2)
        large = (2 * base.facts.rows[:, 0] - 1 + shift + rng.normal(0, 0.5, 100)).astype(np.float32)
        small = (0.5 * large + 3 + rng.normal(0, 0.25, 100)).astype(np.float32)
        return Asked(base.facts, {"large": large, "small": small}, base.relevant)

    found = fit([one(seed) for seed in range(150)])
    assert found.noise == pytest.approx(0.5, abs=0.03)
    assert found.omega[0, 0] == pytest.approx(4, rel=0.35)
    assert (found.offset, found.slope) == (pytest.approx(3, abs=0.1), pytest.approx(0.5, abs=0.02))
    assert found.small_noise == pytest.approx(0.25, abs=0.02)
    assert abs(found.nodes.mean()) < 1e-9
    assert found.nodes.std() == pytest.approx(1)


def test_a_few_logits_tell_how_hard_the_question_is() -> None:
    logs = [asked(seed) for seed in range(100)]
    predictor = fit(logs)
    before, after = [], []
    for one in (asked(seed) for seed in range(200, 240)):
        prior, blank = predictor.prior(one.facts), np.full(100, np.nan, np.float32)
        large = blank.copy()
        seen = one.facts.rank <= 5
        large[seen] = one.logits["large"][seen]
        for told, errors in ((blank, before), (large, after)):
            belief = predictor.posterior(prior, told, blank)
            errors.append(np.abs(belief.mean - one.logits["large"])[~seen].mean())
    assert np.mean(after) < np.mean(before)


def test_logs_without_the_small_model_make_it_worthless() -> None:
    logs = [replace(one, logits={"large": one.logits["large"]}) for one in (asked(seed) for seed in range(5))]
    found = fit(logs)
    assert found.small_noise > 100 * found.noise


def test_nothing_scored_is_refused() -> None:
    one = asked(1)
    with pytest.raises(ValueError, match="nothing to fit"):
        fit([replace(one, logits={"large": np.full(100, np.nan, np.float32)})])


def test_it_survives_json() -> None:
    predictor = fit([asked(seed) for seed in range(5)])
    again = Predictor.from_json(json.loads(json.dumps(predictor.to_json())))
    facts = asked(9).facts
    assert again.prior(facts).mean.tobytes() == predictor.prior(facts).mean.tobytes()


def test_facts_survive_columns() -> None:
    facts = asked(1).facts
    again = Facts.from_columns({name: column.tolist() for name, column in facts.columns().items()})
    for name, column in facts.columns().items():
        assert getattr(again, name).tobytes() == column.tobytes()
