from __future__ import annotations

import numpy as np
import pytest

from ponder.errors import ParameterError
from ponder.laws import bootstrap_interval, bootstrap_means, paired_difference, wilson_interval


def test_wilson_equals_a_case_worked_by_hand() -> None:
    # 8 of 10 at 95 %: centre (0.8 + 1.92073/10) / 1.384146, the textbook values are 0.490 and 0.943.
    share, low, high = wilson_interval(8, 10)
    assert (share, round(low, 3), round(high, 3)) == (0.8, 0.49, 0.943)


def test_wilson_never_leaves_the_unit_interval_and_is_never_empty() -> None:
    for n in (1, 2, 7, 100):
        for c in range(n + 1):
            share, low, high = wilson_interval(c, n)
            assert 0 <= low <= share <= high <= 1 and low < high


def test_wilson_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = [low <= 0.3 <= high for _, low, high in (wilson_interval(int(c), 60) for c in rng.binomial(60, 0.3, 2000))]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_bootstrap_of_a_mean_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = []
    for seed in range(300):
        low, high = bootstrap_interval(rng.beta(0.5, 1.0, size=80), seed=seed)[1:]
        hits.append(low <= 1 / 3 <= high)
    assert 0.91 <= np.mean(hits) <= 0.98


def test_bootstrap_takes_any_statistic_of_the_rows() -> None:
    values = np.arange(20.0)
    got = bootstrap_interval(values, lambda rows: float(np.median(rows)), resamples=200)
    assert got.estimate == 9.5 and got.low < 9.5 < got.high


def test_one_seed_resamples_the_same_problems_for_every_column() -> None:
    rng = np.random.default_rng(3)
    table = rng.random((30, 2))
    together = bootstrap_means(table, seed=5)
    assert together[:, 0] == pytest.approx(bootstrap_means(table[:, 0], seed=5))
    assert np.ptp(bootstrap_means(np.stack([table[:, 0], table[:, 0]], axis=1), seed=5), axis=1).max() < 1e-12


def test_a_paired_difference_is_tighter_than_two_separate_intervals() -> None:
    rng = np.random.default_rng(4)
    difficulty = rng.random(200)
    b = (difficulty > 0.5).astype(float)
    a = (difficulty > 0.4).astype(float)
    got = paired_difference(a, b)
    assert got.decided and got.low > 0 and got.probability == 1.0
    separate = bootstrap_interval(a)
    assert got.high - got.low < separate.high - separate.low
    worse = paired_difference(b, a)
    assert worse.high < 0 and worse.decided and worse.probability == 0.0


def test_more_problems_are_asked_for_when_a_difference_is_small_for_its_noise() -> None:
    got = paired_difference([1, 0, 1, 1, 0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0, 1, 0, 0])
    assert not got.decided
    needed = got.problems_to_decide()
    assert needed is not None and needed > 10
    assert paired_difference([1, 0], [1, 0]).problems_to_decide() is None


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(ParameterError, match="one row or more"):
        bootstrap_interval([])
    with pytest.raises(ParameterError, match="finite"):
        bootstrap_interval([1.0, float("nan")])
    with pytest.raises(ParameterError, match="pair by problem"):
        paired_difference([1, 0], [1])
    with pytest.raises(ParameterError, match=r"0\.95"):
        bootstrap_interval([1, 2], level=95)
    with pytest.raises(ParameterError, match="n must be"):
        wilson_interval(0, 0)
    with pytest.raises(ParameterError, match="between 0 and n=3"):
        wilson_interval(4, 3)
