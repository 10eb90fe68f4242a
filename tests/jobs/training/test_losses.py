"""Losses against a computation by hand."""

import math

import pytest
import torch

from jobs.training.losses import BCE_SHARE, listwise, margin_mse, pointwise, ranking_loss

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 9.0]])
LABELS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def by_hand_listwise():
    first = -math.log(math.exp(2) / (math.exp(2) + 1 + math.exp(-1)))
    second = -math.log(math.exp(0.5) / (math.exp(0.5) + math.exp(1.5)))
    return (first + second) / 2


def by_hand_pointwise():
    """Two positives, three negatives: a positive weighs 1.5."""
    positive = [math.log1p(math.exp(-z)) for z in (2.0, 0.5)]
    negative = [math.log1p(math.exp(z)) for z in (0.0, -1.0, 1.5)]
    return (1.5 * sum(positive) + sum(negative)) / 5


def test_listwise_is_the_softmax_cross_entropy_of_the_group():
    assert float(listwise(LOGITS, LABELS, MASK)) == pytest.approx(by_hand_listwise(), rel=1e-6)


def test_several_positives_share_the_target():
    logits, labels = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert float(listwise(logits, labels, torch.ones(1, 4, dtype=torch.bool))) == pytest.approx(math.log(4), rel=1e-6)


def test_positives_weigh_as_much_as_negatives_together():
    assert float(pointwise(LOGITS, LABELS, MASK)) == pytest.approx(by_hand_pointwise(), rel=1e-6)


def test_ranking_loss_adds_a_fifth_of_the_pointwise():
    expected = by_hand_listwise() + BCE_SHARE * by_hand_pointwise()
    assert float(ranking_loss(LOGITS, LABELS, MASK)) == pytest.approx(expected, rel=1e-6)


def test_a_groups_weight_multiplies_its_loss_and_its_gradient():
    """Weight 2 for the first group, 0 for the second: twice half of what the first alone costs."""
    weights = torch.tensor([2.0, 0.0])
    alone = float(listwise(LOGITS[:1], LABELS[:1], MASK[:1]))
    assert float(listwise(LOGITS, LABELS, MASK, weights)) == pytest.approx(alone, rel=1e-6)
    first = [1.5 * math.log1p(math.exp(-2.0)), math.log1p(math.exp(0.0)), math.log1p(math.exp(-1.0))]
    assert float(pointwise(LOGITS, LABELS, MASK, weights)) == pytest.approx(2 * sum(first) / 5, rel=1e-6)
    logits = LOGITS.clone().requires_grad_()
    torch.autograd.backward(ranking_loss(logits, LABELS, MASK, weights))
    assert not logits.grad[1].any()
    plain = LOGITS.clone().requires_grad_()
    torch.autograd.backward(ranking_loss(plain, LABELS, MASK))
    assert torch.allclose(logits.grad[0], 2 * plain.grad[0])


def test_weights_of_one_change_nothing():
    assert float(ranking_loss(LOGITS, LABELS, MASK, torch.ones(2))) == float(ranking_loss(LOGITS, LABELS, MASK))


def test_margins_are_learned_whatever_the_common_shift():
    assert float(margin_mse(LOGITS + 7.0, LOGITS, MASK)) == pytest.approx(0.0, abs=1e-9)
    taught = torch.tensor([[2.0, 1.0, -1.0], [0.5, 1.5, 0.0]])
    assert float(margin_mse(LOGITS, taught, MASK)) == pytest.approx(1.0 / 3.0, rel=1e-6)


def test_no_pair_is_no_margin():
    assert float(margin_mse(LOGITS, LOGITS + 1.0, torch.zeros_like(MASK))) == 0.0


def test_what_is_masked_has_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    torch.autograd.backward(ranking_loss(logits, LABELS, MASK) + margin_mse(logits, LOGITS + 1.0, MASK))
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert float(logits.grad[1, 2]) == 0.0
