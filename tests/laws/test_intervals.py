from __future__ import annotations

import numpy as np
import pytest

from ponder.errors import ParameterError
from ponder.laws import (
    bootstrap_interval,
    bootstrap_means,
    clustered_share,
    mean_interval,
    paired_difference,
    wilson_interval,
)
from ponder.laws.intervals import student_quantile


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


def test_student_quantiles_are_those_of_the_tables() -> None:
    for freedom, value in ((1, 12.706), (2, 4.303), (5, 2.571), (9, 2.262), (30, 2.042), (60, 2.000), (1e9, 1.960)):
        assert student_quantile(0.975, freedom) == pytest.approx(value, abs=6e-4)
        assert student_quantile(0.025, freedom) == pytest.approx(-value, abs=6e-4)


def test_the_interval_of_a_mean_of_zeros_and_ones_tends_to_wilsons() -> None:
    values = np.repeat([1.0, 0.0], [300, 9_700])
    assert mean_interval(values)[1:] == pytest.approx(wilson_interval(300, 10_000)[1:], rel=1e-3)
    none = mean_interval(np.zeros(50))
    assert none.low == 0 and none.high == pytest.approx(wilson_interval(0, 50).high, rel=0.1)
    assert mean_interval(np.ones(50)).high == 1


def test_the_interval_of_a_mean_moves_with_its_unit_and_turns_with_its_sign() -> None:
    rng = np.random.default_rng(0)
    values = rng.choice([-2.0, 0.0, 0.25, 0.5], size=60, p=[0.05, 0.4, 0.35, 0.2])
    whole = mean_interval(values, -2, 0.5)
    assert mean_interval(10 * values, -20, 5) == pytest.approx([10 * x for x in whole])
    turned = mean_interval(-values, -0.5, 2)
    assert turned == pytest.approx((-whole.estimate, -whole.high, -whole.low))
    assert whole.low < whole.estimate < whole.high


def test_a_loss_that_no_problem_showed_is_allowed_for_as_far_as_it_could_go() -> None:
    gains = np.repeat([0.5, 0.0], 25)
    tame, dear = mean_interval(gains, 0.0, 0.5), mean_interval(gains, -2.0, 0.5)
    assert dear.estimate == tame.estimate and dear.high == pytest.approx(tame.high)
    assert dear.low < tame.low - 0.05
    assert mean_interval([0.3], -2.0, 0.5) == (0.3, -2.0, 0.5)  # one problem says nothing about the others
    assert mean_interval([0.25] * 9) == (0.25, 0.25, 0.25)


def test_samples_of_one_problem_count_as_fewer() -> None:
    hits, problem = [1, 1, 1, 0, 0, 0] * 10, [i // 3 for i in range(60)]
    alike = clustered_share(hits, problem)
    alone = wilson_interval(30, 60)
    # Each problem is all hits or all misses: 20 trials and not 60, times (1 - 1 / 20) for the spread of 20.
    assert alike.high - alike.low > 1.6 * (alone.high - alone.low)
    mixed = clustered_share(hits, [i % 3 for i in range(60)])
    assert mixed.estimate == alike.estimate == 0.5
    perfect = clustered_share([True] * 60, problem)
    assert perfect.high == 1 and perfect.low == pytest.approx(wilson_interval(20, 20).low, abs=0.03)
    assert clustered_share([1, 0], ["a", "a"]).high > 0.95  # one problem
    with pytest.raises(ParameterError, match="one for each"):
        clustered_share([1, 0], ["a"])


def test_means_that_cannot_be_are_refused() -> None:
    with pytest.raises(ParameterError, match="finite numbers"):
        mean_interval([])
    with pytest.raises(ParameterError, match="finite numbers"):
        mean_interval([0.5, float("nan")])
    with pytest.raises(ParameterError, match=r"in \[0, 1\]"):
        mean_interval([0.5, 3.0])
