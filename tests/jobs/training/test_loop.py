"""The loop: it learns, it goes on where it stopped, it stops when told to."""

import copy
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.training.loop import CHECKPOINT, Plan, Trainer, device_of, group_logits, teacher_of
from jobs.training.sampling import Lengths, Mix, Sampler
from jobs.training.schedule import Budget
from tenants.errors import Cancelled, InvalidInput

PLAN = Plan(Budget(steps=8), peak=1e-2, groups=4, slices=2, average_from=0.5)


def trainer(network, builder, pool, folder, plan=PLAN, teacher=None):
    sampler = Sampler([pool], Mix(hard=3, medium=1, random=1), Lengths(24, 24, 0.0), builder.specials, seed=4)
    return Trainer(copy.deepcopy(network), builder, sampler, plan, folder, teacher)


def weights(one):
    return {name: value.clone() for name, value in one.network.state_dict().items()}


def test_training_lowers_the_loss_and_leaves_embeddings_alone(network, builder, pool, tmp_path):
    one = trainer(network, builder, pool, tmp_path, Plan(Budget(steps=60), peak=5e-3, groups=4, slices=2))
    before = weights(one)
    progress = one.run(lambda _: None, every=10)
    assert progress.curve[-1][2] < 0.7 * progress.curve[0][2]
    assert progress.pairs == 60 * 4 * 6
    after = weights(one)
    frozen = [name for name in before if ".embeddings." in name]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)


def test_a_resumed_run_ends_like_one_that_was_never_interrupted(network, builder, pool, tmp_path):
    whole = trainer(network, builder, pool, tmp_path / "whole")
    whole.run(lambda _: None)
    whole.finish()
    first = trainer(network, builder, pool, tmp_path / "parts")

    def interrupt(progress):
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Cancelled, match="--resume"):
        first.run(interrupt, every=1)
    second = trainer(network, builder, pool, tmp_path / "parts")
    assert second.resume()
    assert second.progress.step == 5
    second.run(lambda _: None)
    second.finish()
    left, right = weights(whole), weights(second)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_without_a_checkpoint_there_is_nothing_to_resume(network, builder, pool, tmp_path):
    assert not trainer(network, builder, pool, tmp_path).resume()


def test_a_checkpoint_of_another_model_is_refused(network, builder, pool, tmp_path):
    one = trainer(network, builder, pool, tmp_path)
    one.save()
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    state["network"].pop("classifier.weight")
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(InvalidInput, match="of another model"):
        one.resume()


def test_the_budget_ends_a_run_that_has_no_steps(network, builder, pool, tmp_path):
    one = trainer(network, builder, pool, tmp_path, Plan(Budget(seconds=0.5), groups=2))
    progress = one.run(lambda _: None)
    assert progress.elapsed >= 0.5
    assert progress.step >= 1


def test_a_teacher_is_learned_from(network, builder, pool, tmp_path):
    """The teacher sets every first candidate three above the others; labels have no share in the loss."""
    plan = Plan(Budget(steps=80), peak=5e-3, groups=4, slices=2, margin_share=1.0)
    one = trainer(network, builder, pool, tmp_path, plan, lambda groups: 3.0 * torch.eye(6)[0].repeat(len(groups), 1))
    progress = one.run(lambda _: None, every=10)
    assert progress.curve[0][2] > 5.0
    assert progress.curve[-1][2] < 0.7 * progress.curve[0][2]


def test_scores_that_came_with_the_data_are_learned_from(network, builder, pool, tmp_path):
    """Half of the candidates are scored; margins of the others, and of groups without any, count nothing."""
    scores = [{row: 3.0 if row == n else 0.0 for row in range(20)} if n % 2 == 0 else {} for n in range(10)]
    plan = Plan(Budget(steps=60), peak=5e-3, groups=4, slices=2, margin_share=1.0)
    one = trainer(network, builder, replace(pool, taught=scores), tmp_path, plan)
    progress = one.run(lambda _: None, every=10)
    assert progress.curve[-1][2] < 0.8 * progress.curve[0][2]


def test_a_negative_that_the_teacher_likes_is_no_negative(network, builder, pool, tmp_path):
    """The teacher scores all alike: labels then have no negative, and nothing is learned from them."""
    plan = Plan(Budget(steps=1), groups=2, margin_share=0.0)
    one = trainer(network, builder, pool, tmp_path, plan, lambda groups: torch.zeros(len(groups), 6))
    progress = one.run(lambda _: None, every=1)
    positive_alone = math.log(2.0) * 0.2
    assert progress.curve[0][2] == pytest.approx(positive_alone, abs=0.05)


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_a_questions_weight_is_in_the_loss_that_is_trained_on(network, builder, pool, tmp_path, weight):
    plan = Plan(Budget(steps=1), groups=4, slices=2)
    weighed = replace(pool, weights=[weight] * 10)
    one, other = (trainer(network, builder, each, tmp_path, plan) for each in (pool, weighed))
    plain, found = (each.run(lambda _: None, every=1).curve[0][2] for each in (one, other))
    assert found == pytest.approx(weight * plain, rel=1e-4)


def test_a_network_teaches_its_own_logits(network, builder, pool):
    sampler = Sampler([pool], Mix(), Lengths(24, 24, 0.0), builder.specials, seed=4)
    groups = sampler.groups(0, 3)
    taught = teacher_of(network, builder)(groups)
    assert taught.shape == (3, Mix().size)
    assert not taught.requires_grad


def test_logits_do_not_depend_on_the_slices(network, builder, pool):
    sampler = Sampler([pool], Mix(hard=3, medium=1, random=1), Lengths(16, 24, 0.5), builder.specials, seed=4)
    groups = sampler.groups(0, 5)
    network.eval()
    with torch.no_grad():
        one, many = (group_logits(network, builder, groups, slices) for slices in (1, 7))
    np.testing.assert_allclose(one.numpy(), many.numpy(), atol=2e-2)


def test_a_gpu_that_is_not_there_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InvalidInput, match="no CUDA device"):
        device_of("cuda")
    assert device_of("auto").type == "cpu"
