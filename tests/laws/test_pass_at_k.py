from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from ponder.errors import ParameterError
from ponder.laws import coverage_curve, log_spaced_k, pass_at_k


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_draw(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations([True] * c + [False] * (n - c), k))
            exact = Fraction(sum(any(s) for s in subsets), len(subsets))
            assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-14)


def test_the_edges_are_exact() -> None:
    assert pass_at_k(7, 0, 7) == 0.0
    assert pass_at_k(7, 7, 1) == 1.0
    assert pass_at_k(7, 3, 5) == 1.0
    assert pass_at_k(7, 3, 1) == 3 / 7
    assert isinstance(pass_at_k(7, 3, 2), float)


def test_arrays_broadcast_and_equal_the_scalars() -> None:
    n, c, k = np.array([[5], [8]]), np.array([0, 2, 5]), 3
    got = pass_at_k(n, c, k)
    assert got.shape == (2, 3)
    assert got.tolist() == [[pass_at_k(int(a), int(b), k) for b in c] for a in n[:, 0]]
    assert pass_at_k([], [], 1).shape == (0,)


def test_ten_thousand_draws_are_stable() -> None:
    # With one right draw in n, the share of k-subsets that hold it is k / n.
    k = np.array([1, 10, 100, 5000, 10_000])
    assert pass_at_k(10_000, 1, k) == pytest.approx(k / 10_000, rel=1e-10)
    big = pass_at_k(10_000, np.arange(0, 10_001, 7), 137)
    assert np.all((big >= 0) & (big <= 1)) and np.all(np.diff(big) >= 0)


@pytest.mark.parametrize(
    ("n", "c", "k", "words"),
    [
        (4, 2, 5, "k <= samples per problem \\(k=5, n=4\\)"),
        (4, 5, 1, "at most n"),
        (4, -1, 1, "counts the right draws"),
        (0, 0, 1, "no draws"),
        (4, 2, 0, "k must be"),
        (4, 1.5, 1, "whole numbers"),
        (4, float("nan"), 1, "whole numbers"),
        (4, "two", 1, "whole numbers"),
        ([4, 4], [1, 6], 1, "c=6"),
    ],
)
def test_counts_that_cannot_be_are_refused(n: object, c: object, k: object, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        pass_at_k(n, c, k)
    with pytest.raises(ValueError, match="not allowed"):
        pass_at_k(n, c, k)


def test_the_function_wins_over_the_file_of_its_name() -> None:
    import ponder.laws.pass_at_k

    assert callable(ponder.laws.pass_at_k)
    assert ponder.laws.pass_at_k(2, 1, 2) == 1.0


def test_the_estimate_is_unbiased_where_the_plug_in_is_not() -> None:
    # 400 problems with p ~ Beta(0.3, 3), 200 draws each; the true coverage of these problems is known.
    rng = np.random.default_rng(0)
    p = rng.beta(0.3, 3, size=400)
    redraws, n = 500, 200
    c = rng.binomial(n, p, size=(redraws, p.size))
    for k in (1, 10, 100):
        truth = float(np.mean(1 - (1 - p) ** k))
        table = pass_at_k(n, np.arange(n + 1), k)
        means = table[c].mean(axis=1)
        plug_in = (1 - (1 - c / n) ** k).mean(axis=1)
        error = means.std(ddof=1) / np.sqrt(redraws)
        assert abs(means.mean() - truth) < 3 * error
        if k > 1:
            assert abs(plug_in.mean() - truth) > 6 * plug_in.std(ddof=1) / np.sqrt(redraws)


def test_coverage_is_the_mean_over_problems() -> None:
    got = coverage_curve([4, 8], [2, 1], [1, 3])
    assert got.tolist() == pytest.approx([(0.5 + 0.125) / 2, (pass_at_k(4, 2, 3) + pass_at_k(8, 1, 3)) / 2])
    with pytest.raises(ParameterError, match="one problem or more"):
        coverage_curve(4, [], [1])


def test_the_grid_of_k_is_log_spaced_and_ends_at_n() -> None:
    grid = log_spaced_k(100)
    assert grid[0] == 1 and grid[-1] == 100 and np.all(np.diff(grid) > 0) and grid.size <= 40
    assert log_spaced_k(1).tolist() == [1]
    with pytest.raises(ParameterError):
        log_spaced_k(0)
