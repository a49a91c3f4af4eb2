from math import comb

import numpy as np
import pytest

from ponder.errors import ParameterError
from ponder.laws.majority_limit import majority_accuracy, majority_limit, majority_limit_of_pool


def test_two_answers_follow_the_binomial_distribution_with_shared_ties():
    exact = sum(comb(10, k) * 0.6**k * 0.4 ** (10 - k) * (1 if k > 5 else 0.5 if k == 5 else 0) for k in range(11))
    assert majority_accuracy([0.6, 0.4], 10) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("p", "n"), [((0.4, 0.3, 0.2, 0.1), 10), ((0.3, 0.3, 0.2), 7), ((0.2,) * 5, 20)])
def test_the_exact_value_agrees_with_simulation(p, n):
    counts = np.random.default_rng(2).multinomial(n, [*p, 1 - sum(p)], size=100_000)[:, : len(p)]
    best = counts.max(axis=1)
    credit = ((counts[:, 0] == best) & (best > 0)) / (counts == best[:, None]).sum(axis=1)
    assert abs(credit.mean() - majority_accuracy(p, n)) < 3.5 * credit.std() / np.sqrt(100_000)


def test_long_votes_of_many_answers_use_monte_carlo():
    p = [0.3, 0.25, 0.2, 0.15, 0.1]
    assert abs(majority_accuracy(p, 64) - majority_accuracy(p, 65)) < 0.02


def test_one_sample_is_right_as_often_as_its_answer():
    assert majority_accuracy([0.35, 0.65], 1) == pytest.approx(0.35)
    assert majority_accuracy([0.5, 0.2], 1) == pytest.approx(0.5)


def test_the_limit_is_decided_by_the_mode():
    assert majority_limit([0.4, 0.35, 0.25]) == 1.0
    assert majority_limit([0.3, 0.4, 0.3]) == 0.0
    assert majority_limit([0.4, 0.4, 0.2]) == 0.5
    assert majority_accuracy([0.4, 0.35, 0.25], 400) > majority_accuracy([0.4, 0.35, 0.25], 40)


def test_the_limit_of_saved_samples_looks_at_each_problems_mode():
    groups = np.array([[0, 0, 1], [0, 1, 1], [0, 1, -1], [-1, -1, -1]])
    correct = np.array([[True, True, False], [True, False, False], [True, False, False], [False] * 3])
    assert majority_limit_of_pool(groups, correct) == pytest.approx((1 + 0 + 0.5 + 0) / 4)


def test_impossible_parameters_are_named():
    with pytest.raises(ParameterError, match="sum to at most 1"):
        majority_accuracy([0.9, 0.3], 3)
    with pytest.raises(ParameterError, match="right=3"):
        majority_limit([0.9, 0.1], right=3)
