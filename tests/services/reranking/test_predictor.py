"""The predictor: closed forms against the textbook's matrices, and what it recovers from made-up logs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from services.reranking.facts import Facts
from services.reranking.predictor import Predictor, fit
from tests.services.reranking.questions import Asked, asked


def test_the_posterior_is_the_joint_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.reranking.predictor.CLIP", 1e9)
    one = asked(4, 6)
    predictor = fit([asked(seed) for seed in range(30)])
    prior = predictor.prior(one.facts)
    large, small = np.full(6, np.nan, np.float32), np.full(6, np.nan, np.float32)
    large[[0, 3]], small[[3, 5]] = [1.0, -4.0], [9.0, 2.0]  # the small model's word on row 3 no longer counts
    got = predictor.posterior(prior, predictor.large.of(large), predictor.small.of(small))

    u = prior.effects
    cov = u @ predictor.omega @ u.T + predictor.noise**2 * np.eye(6)
    rho = (predictor.small_noise / predictor.slope) ** 2
    told = [0, 3, 5]
    said = [*predictor.large.of([1.0, -4.0]), (float(predictor.small.of(2.0)) - predictor.offset) / predictor.slope]
    inner = np.linalg.inv(cov[np.ix_(told, told)] + np.diag([0, 0, rho]))
    mean = prior.mean + cov[:, told] @ inner @ (np.array(said) - prior.mean[told])
    variance = np.diag(cov - cov[:, told] @ inner @ cov[told, :])
    np.testing.assert_allclose(got.mean, mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got.spread**2, variance, rtol=1e-6, atol=1e-6)


def test_one_yes_says_little_of_the_others() -> None:
    one = asked(4)
    predictor = fit([asked(seed) for seed in range(30)])
    prior, blank = predictor.prior(one.facts), np.full(100, np.nan, np.float32)
    usual, wild = blank.copy(), blank.copy()
    usual[0], wild[0] = 6.0, 60.0
    belief, again = (predictor.posterior(prior, predictor.large.of(said), blank) for said in (usual, wild))
    np.testing.assert_allclose(belief.mean[1:], again.mean[1:])


def test_fitting_recovers_what_the_logs_were_made_with() -> None:
    rng = np.random.default_rng(0)

    def one(seed: int) -> Asked:
        base = asked(seed)
        shift = rng.normal(0, 2)
        large = (2 * base.facts.rows[:, 0] - 1 + shift + rng.normal(0, 0.5, 100)).astype(np.float32)
        small = (0.5 * large + 3 + rng.normal(0, 0.25, 100)).astype(np.float32)
        return Asked(base.facts, {"large": large, "small": small}, base.relevant)

    some = [one(seed) for seed in range(150)]
    found = fit(some)
    wide = float(np.std(np.concatenate([found.large.of(log.logits["large"]) for log in some])))
    assert wide == pytest.approx(np.pi / 3**0.5, rel=0.05)  # a standard logistic's
    assert found.noise == pytest.approx(wide * 0.5 / np.hypot(2, 0.6), rel=0.15)
    assert found.omega[0, 0] == pytest.approx((wide * 2 / np.hypot(2, 0.6)) ** 2, rel=0.35)
    assert found.slope == pytest.approx(1, abs=0.1)
    assert found.small_noise == pytest.approx(found.noise, rel=0.2)


def test_chances_are_those_that_come_true() -> None:
    predictor = fit([asked(seed) for seed in range(120)])
    said, true = np.zeros(len(predictor.levels)), np.zeros(len(predictor.levels))
    edges = [-np.inf, *predictor.edges, np.inf]
    blank = np.full(100, np.nan, np.float32)
    for one in (asked(seed) for seed in range(300, 420)):
        belief = predictor.posterior(predictor.prior(one.facts), blank, blank)
        chance = predictor.chance(belief.mean, belief.spread)
        np.testing.assert_allclose(chance.sum(1), 1)
        said += chance.sum(0)
        true += np.histogram(predictor.large.of(one.logits["large"]), edges)[0]
    np.testing.assert_allclose(said / said.sum(), true / true.sum(), atol=0.1)
    assert said[-1] / said.sum() == pytest.approx(true[-1] / true.sum(), abs=0.01)  # the rare yeses


def test_a_few_logits_tell_how_hard_the_question_is() -> None:
    predictor = fit([asked(seed) for seed in range(100)])
    before, after = [], []
    for one in (asked(seed) for seed in range(200, 240)):
        prior, blank = predictor.prior(one.facts), np.full(100, np.nan, np.float32)
        seen = one.facts.rank <= 5
        large = np.where(seen, one.logits["large"], blank).astype(np.float32)
        truth = predictor.large.of(one.logits["large"])
        for told, errors in ((blank, before), (large, after)):
            errors.append(
                np.abs(predictor.posterior(prior, predictor.large.of(told), blank).mean - truth)[~seen].mean()
            )
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
