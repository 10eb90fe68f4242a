"""Dev figures: the blend by hand, and questions that count more than others."""

import math

import numpy as np
import pytest

from jobs.training.evaluation import BLENDS, Check, by_blend
from jobs.training.sampling import Group

TOKENS = np.zeros(1, np.uint32)


def check(grades, weight=1.0):
    group = Group(TOKENS, (TOKENS, TOKENS), weight=weight)
    return Check(group, np.array([0.9, 0.1], np.float32), ("first", "second"), grades)


def test_a_question_counts_by_its_weight():
    """The first stage is right on one question and puts the other's answer second: 1 and 1 / log2(3)."""
    right, wrong = check({"first": 1}, 3.0), check({"second": 1}, 1.0)
    figures = by_blend([right, wrong], [np.zeros(2, np.float32)] * 2)
    assert set(figures) == set(BLENDS)
    assert figures[0.0] == pytest.approx((3 * 1 + 1 / math.log2(3)) / 4)


def test_the_logits_decide_where_the_blend_is_theirs():
    figures = by_blend([check({"second": 1})], [np.array([-5.0, 5.0], np.float32)])
    assert figures[1.0] == 1.0
    assert figures[0.0] == pytest.approx(1 / math.log2(3))
