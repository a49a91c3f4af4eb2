from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from ponder.errors import ParameterError
from ponder.laws import best_of_k, majority_at_k, pass_at_k, rank_weights


def enumerated_best(scores: list[float], quality: list[float], k: int) -> float:
    """Mean over all k-subsets; a tie for the best score is a uniform choice among the tied."""
    values = []
    for subset in combinations(range(len(scores)), k):
        best = max(scores[i] for i in subset)
        tied = [quality[i] for i in subset if scores[i] == best]
        values.append(sum(tied) / len(tied))
    return sum(values) / len(values)


@pytest.mark.parametrize("n", range(1, 8))
def test_best_of_k_is_the_mean_over_all_subsets(n: int) -> None:
    rng = np.random.default_rng(n)
    for levels in (2, 4, 1000):
        scores = [float(s) for s in rng.integers(levels, size=n)]
        quality = [float(q) for q in rng.random(n)]
        for k in range(1, n + 1):
            assert best_of_k(scores, quality, k) == pytest.approx(enumerated_best(scores, quality, k), abs=1e-12)


def test_order_of_the_draws_does_not_matter() -> None:
    scores, quality = [0.5, 0.5, 0.1, 0.9], [1.0, 0.0, 1.0, 0.0]
    got = {round(best_of_k([scores[i] for i in p], [quality[i] for i in p], 2), 12) for p in permutations(range(4))}
    assert len(got) == 1


def test_a_perfect_score_gives_pass_at_k_and_a_constant_one_the_mean() -> None:
    right = [1.0] * 3 + [0.0] * 9
    for k in range(1, 13):
        assert best_of_k(right, right, k) == pytest.approx(pass_at_k(12, 3, k))
        assert best_of_k([0.0] * 12, right, k) == pytest.approx(0.25)


def test_a_failed_score_ranks_last() -> None:
    assert best_of_k([float("nan"), 0.0], [1.0, 0.0], 2) == 0.0
    assert best_of_k([float("nan"), float("nan")], [1.0, 0.0], 1) == 0.5


def test_weights_sum_to_one_for_ten_thousand_draws() -> None:
    for k in (1, 17, 9999, 10_000):
        weights = rank_weights(10_000, k)
        assert weights.sum() == pytest.approx(1.0) and np.all(weights >= 0)


def test_a_vote_of_all_shares_ties_and_one_draw_is_the_mean() -> None:
    assert majority_at_k(["a", "b", "a", "b"], "a", 4) == 0.5
    assert majority_at_k(["a", "b", "c"], {"a", "b"}, 3) == pytest.approx(2 / 3)
    assert majority_at_k(["a", "b", "b", None], "b", 1) == 0.5
    assert majority_at_k([None, None], "b", 2) == 0.0


def test_a_vote_of_k_tends_to_the_mean_over_all_subsets() -> None:
    answers = ["a", "a", "a", "b", "b", "c", None]
    values = []
    for subset in combinations(answers, 4):
        counts = {x: subset.count(x) for x in set(subset) if x is not None}
        best = [x for x, count in counts.items() if count == max(counts.values())]
        values.append(("a" in best) / len(best))
    got = majority_at_k(answers, "a", 4, subsets=20_000)
    assert got == pytest.approx(np.mean(values), abs=0.01)
    assert majority_at_k(answers, "a", 4, seed=3) == majority_at_k(answers, "a", 4, seed=3)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ParameterError, match="n=2"):
        best_of_k([1, 2], [0, 1], 3)
    with pytest.raises(ParameterError, match="as many values"):
        best_of_k([1, 2], [0], 1)
    with pytest.raises(ParameterError, match="n=0"):
        majority_at_k([], "a", 1)
    with pytest.raises(ParameterError, match="subsets"):
        majority_at_k(["a"], "a", 1, subsets=0)
