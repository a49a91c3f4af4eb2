from __future__ import annotations

import math

import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws import (
    anytime_curve,
    area_under_curve,
    controllability,
    end_slope,
    mean_pairwise_slope,
    metric_interval,
    slope_per_doubling,
)


def test_on_two_points_every_slope_is_the_slope() -> None:
    assert mean_pairwise_slope([2, 6], [0.1, 0.5]) == end_slope([2, 6], [0.1, 0.5]) == pytest.approx(0.1)
    assert slope_per_doubling([2, 8], [0.1, 0.5]) == pytest.approx(0.2)


def test_equal_budgets_are_merged_by_their_mean() -> None:
    assert mean_pairwise_slope([4, 2, 2], [0.5, 0.4, 0.6]) == pytest.approx(0.0)
    with pytest.raises(LawFitError, match="two different budgets; there is only 2"):
        mean_pairwise_slope([2, 2], [0.4, 0.6])


def test_the_area_of_a_constant_is_the_constant_on_either_axis_and_log_weighs_doublings_alike() -> None:
    for scale in ("log", "linear"):
        assert area_under_curve([1, 3, 9], [0.4] * 3, scale=scale) == pytest.approx(0.4)
    assert area_under_curve([1, 2, 4], [0, 0.5, 1]) == pytest.approx(0.5)
    with pytest.raises(ParameterError, match="'log' or 'linear'"):
        area_under_curve([1, 2], [0, 1], scale="root")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="above 0"):
        area_under_curve([0, 2], [0, 1])


def test_an_anytime_curve_keeps_the_last_answer() -> None:
    cost = [[10, 20], [15, math.nan]]
    assert anytime_curve(cost, [[0, 1], [1, math.nan]], [0, 10, 15, 20, 99]).tolist() == [0, 0, 0.5, 1, 1]
    with pytest.raises(ParameterError, match="falls along a row"):
        anytime_curve([[20, 10]], [[0, 1]], [5])


def test_control_counts_what_stays_inside() -> None:
    got = controllability([90, 110, 150], 100, most=120)
    assert got.control == pytest.approx(2 / 3) and got.rmse == pytest.approx(30) and got.relative_deviation > 0
    assert np.isnan(controllability([1.0]).rmse)
    with pytest.raises(ParameterError, match="above 0"):
        controllability([1.0], 0)


def test_the_interval_of_a_metric_is_around_the_metric_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    budgets, table = [1, 2, 4, 8], (rng.random((60, 4)) < [0.2, 0.3, 0.45, 0.5]).astype(float)
    for metric in (slope_per_doubling, mean_pairwise_slope, end_slope, area_under_curve):
        got = metric_interval(metric, budgets, table)
        assert got.estimate == pytest.approx(metric(budgets, table.mean(axis=0)))
        assert got.low < got.estimate < got.high
    solved = metric_interval(area_under_curve, budgets, np.ones((40, 4)))
    assert solved.high == 1 and 0.85 < solved.low < 1  # forty solved problems do not promise the next
