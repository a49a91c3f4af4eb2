"""How well each strategy of a study scales: slope, area, ARISE and saturation, or why one was not measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ponder.errors import PonderError
from ponder.laws.arise import arise
from ponder.laws.geometric_saturation import GeometricSaturation
from ponder.laws.scaling_metrics import area_under_curve, mean_pairwise_slope, metric_interval, slope_per_doubling
from ponder.studies.measured import Axis, Measured, Point

EPSILON = 0.01
"""A point of accuracy: what a further sample should gain to be worth its cost."""


@dataclass(frozen=True)
class Metric:
    """A number, or why there is none.

    Attributes:
        value: None if it was not measured.
        low: lower end of the 95 % interval, if there is one.
        high: upper end.
        reason: why the value is missing, or what it holds besides.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class HowWell:
    """One strategy over its budgets.

    Attributes:
        strategy: canonical text.
        doubling: accuracy gained per doubling of compute.
        pairwise: mean pairwise slope, accuracy per unit of compute.
        area: area under accuracy against the logarithm of compute, over its width.
        arise: ARISE over the study's tokens.
        saturation: samples from which on one more gains at most a point of accuracy.
    """

    strategy: str
    doubling: Metric
    pairwise: Metric
    area: Metric
    arise: Metric
    saturation: Metric

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def how_well(data: Measured, axis: Axis | None = None) -> list[HowWell]:
    """Measure every strategy of a study that has an accuracy.

    Args:
        data: the study.
        axis: what compute means for slopes and area; the study's default if None.
    """
    axis = data.axis() if axis is None else axis
    out = []
    for name in data.strategies:
        points = sorted((p for p in data.points if p.strategy == name), key=lambda p: p.budget)
        slopes = (
            _measured(partial(_of_curve, data, f, axis), points)
            for f in (slope_per_doubling, mean_pairwise_slope, area_under_curve)
        )
        follow = (_measured(partial(f, data), points) for f in (_arise, _saturation))
        out.append(HowWell(name, *slopes, *follow))
    return out


def _of_curve(
    data: Measured, metric: Callable[[ArrayLike, ArrayLike], float], axis: Axis, points: list[Point]
) -> Metric:
    """A metric that is linear in quality: its value is the mean of the problems', each at the mean costs."""
    costs = [p.cost(axis) or 0.0 for p in points]
    value = metric(costs, [p.accuracy for p in points])
    table = data.shared(points)
    if table is None or len(table) < 2 or any(p.n_problems != len(table) for p in points):
        return Metric(value, reason="no interval: not every problem has an outcome at every budget")
    found = metric_interval(metric, costs, table)
    return Metric(value, found.low, found.high, "interval over problems")


def _measured(compute: Callable[[list[Point]], Metric], points: list[Point]) -> Metric:
    try:
        return compute(points)
    except PonderError as error:
        return Metric(None, reason=str(error))


def _arise(data: Measured, points: list[Point]) -> Metric:
    if len(points) < 2:
        return Metric(None, reason="one budget only; ARISE needs two")
    table = data.shared(points)
    tokens = [p.tokens for p in points if p.tokens is not None]
    if table is None or len(tokens) < len(points):
        return Metric(None, reason="outcomes and tokens per problem are not stored")
    cost = np.stack(tokens, axis=1)
    known = ~np.isnan(np.stack([p.correct for p in points if p.correct is not None], axis=1)).any(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = arise(table, cost[known])
    if found.invalid == len(table):
        return Metric(None, reason="no problem has tokens at every budget")
    left_out = f"; {found.invalid} problems without tokens left out" if found.invalid else ""
    return Metric(
        found.value, found.low, found.high, f"{found.improved} problems improved, {found.degraded} degraded{left_out}"
    )


def _saturation(data: Measured, points: list[Point]) -> Metric:
    table = data.shared(points)
    budgets = [p.budget for p in points]
    if table is not None and len(table) > 1:
        law = GeometricSaturation.fit_table(budgets, table, resamples=0)
    else:
        law = GeometricSaturation.fit(budgets, [p.accuracy for p in points])
    at = law.saturation(EPSILON)
    beyond = ", beyond the budgets measured" if at > max(budgets) else ""
    return Metric(at, reason=f"limit {law.limit:.0%}, R² {law.diagnostics.r2:.2f}{beyond}" if law.diagnostics else "")
