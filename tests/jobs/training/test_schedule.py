"""The learning rate follows what is left of the budget."""

import pytest

from jobs.training.schedule import Budget, rate


def test_rate_warms_up_and_ends_at_nothing():
    assert rate(0.0, 1.0) == 0.0
    assert rate(0.05, 1.0) == pytest.approx(0.5)
    assert rate(0.1, 1.0) == pytest.approx(1.0)
    assert rate(0.55, 1.0) == pytest.approx(0.5)
    assert rate(1.0, 1.0) == 0.0


@pytest.mark.parametrize(
    ("budget", "elapsed", "step", "done"),
    [
        (Budget(seconds=100.0), 25.0, 7, 0.25),
        (Budget(steps=10), 1e6, 5, 0.5),
        (Budget(seconds=100.0, steps=10), 25.0, 9, 0.9),
        (Budget(seconds=100.0), 1e6, 0, 1.0),
    ],
)
def test_whichever_ends_first_counts(budget, elapsed, step, done):
    assert budget.progress(elapsed, step) == pytest.approx(done)


def test_a_slow_machine_walks_the_same_curve():
    budget = Budget(seconds=60.0)
    fast = [rate(budget.progress(second, 10 * second), 1.0) for second in range(61)]
    slow = [rate(budget.progress(second, second // 20), 1.0) for second in range(61)]
    assert fast == slow
