"""How well a technique scales: slopes, area under the budget curve, anytime curves, control of what is spent.

Paper    "What, How, Where, and How Well? A Survey on Test-Time Scaling in Large Language Models", 2025, and the works
         it cites.
Differs  Budgets that are equal are merged by their mean before any slope, which would else divide by zero. The area
         is divided by the width of its axis, so it is a mean quality in [0, 1], on a linear or a logarithmic axis.
Needs    Qualities at two different budgets or more.    Cost: none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import LawFitError, ParameterError
from ponder.laws.intervals import Interval, mean_interval

Floats = NDArray[np.float64]
Scale = Literal["log", "linear"]


def merged(budget: ArrayLike, quality: ArrayLike) -> tuple[Floats, Floats]:
    """Rising budgets, each once, with the mean quality at each.

    Raises:
        ParameterError: shapes differ, nothing given, a budget ≤ 0, or a number that is not finite.
    """
    x, y = np.asarray(budget, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise ParameterError("scaling metrics", "quality", y.shape, allowed=f"one number for each budget, {x.shape}")
    if not (np.all(np.isfinite(x) & (x > 0)) and np.all(np.isfinite(y))):
        raise ParameterError("scaling metrics", "budget", x.tolist(), allowed="finite, above 0, with finite qualities")
    values, where = np.unique(x, return_inverse=True)
    return values, np.bincount(np.ravel(where), y) / np.bincount(np.ravel(where))


def mean_pairwise_slope(budget: ArrayLike, quality: ArrayLike) -> float:
    """Mean over all pairs of budgets of (f(x_j) - f(x_i)) / (x_j - x_i).

    >>> round(mean_pairwise_slope([1, 2, 2, 4], [0.0, 0.4, 0.6, 0.5]), 6)
    0.222222
    """
    x, y = _two(budget, quality)
    i, j = np.triu_indices(x.size, 1)
    return float(np.mean((y[j] - y[i]) / (x[j] - x[i])))


def end_slope(budget: ArrayLike, quality: ArrayLike) -> float:
    """Gain from the smallest to the largest budget over their difference."""
    x, y = _two(budget, quality)
    return float((y[-1] - y[0]) / (x[-1] - x[0]))


def slope_per_doubling(budget: ArrayLike, quality: ArrayLike) -> float:
    """Quality gained each time the budget doubles: the least-squares slope on log2 of the budget.

    >>> round(slope_per_doubling([1, 2, 4, 8], [0.1, 0.2, 0.3, 0.4]), 9)
    0.1
    """
    x, y = _two(budget, quality)
    u = np.log2(x) - np.log2(x).mean()
    return float(u @ y / (u @ u))


def area_under_curve(budget: ArrayLike, quality: ArrayLike, *, scale: Scale = "log") -> float:
    """Area under the straight lines between the points, over the width of the axis: a mean quality.

    Args:
        budget: above 0, two different ones or more.
        quality: at each.
        scale: `log` gives every doubling the same weight, `linear` every unit.

    >>> area_under_curve([1, 2, 4], [0, 0.5, 1]), area_under_curve([1, 2, 4], [0, 0.5, 1], scale="linear")
    (0.5, 0.5833333333333334)
    """
    if scale not in ("log", "linear"):
        raise ParameterError("area_under_curve", "scale", scale, allowed="'log' or 'linear'")
    x, y = _two(budget, quality)
    u = np.log2(x) if scale == "log" else x
    return float(((y[1:] + y[:-1]) / 2 * np.diff(u)).sum() / (u[-1] - u[0]))


def metric_interval(
    metric: Callable[[ArrayLike, ArrayLike], float], budget: ArrayLike, quality: ArrayLike, *, level: float = 0.95
) -> Interval:
    """A slope or an area of the mean quality, and its interval over problems (see `mean_interval`).

    Args:
        metric: linear in quality: `slope_per_doubling`, `mean_pairwise_slope`, `end_slope` or `area_under_curve`.
        budget: shape (m,); what problems spend at each level differs, so give the mean.
        quality: of each problem at each budget, in [0, 1], shape (problems, m).
        level: between 0 and 1.

    >>> got = metric_interval(end_slope, [1, 2], [[0, 1], [0, 0], [1, 1], [0, 1]])
    >>> got.estimate, got.low < 0.5 < got.high
    (0.5, True)
    """
    table = np.asarray(quality, dtype=np.float64)
    weights = np.array([metric(budget, one) for one in np.eye(table.shape[-1])])
    return mean_interval(
        table @ weights, float(np.minimum(weights, 0).sum()), float(np.maximum(weights, 0).sum()), level=level
    )


def anytime_curve(cost: ArrayLike, quality: ArrayLike, budgets: ArrayLike) -> Floats:
    """Mean over problems of `anytime_quality`; the interval is `mean_interval` of a column of that.

    >>> anytime_curve([[10, 20], [15, 40]], [[0, 1], [1, 1]], [5, 15, 20]).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.asarray(anytime_quality(cost, quality, budgets).mean(axis=0))


def anytime_quality(cost: ArrayLike, quality: ArrayLike, budgets: ArrayLike) -> Floats:
    """Quality of each problem if it is stopped at a budget: what it last had by then, 0 before its first answer.

    Args:
        cost: spent when each answer was there, shape (problems, levels), rising along a row; NaN for no answer.
        quality: of that answer, the same shape.
        budgets: where to stop, shape (m,).

    Returns:
        Shape (problems, m).

    Raises:
        ParameterError: shapes differ, no problems, or a cost that falls along a row.

    >>> anytime_quality([[10, 20], [15, 40]], [[0, 1], [1, 1]], [5, 15, 20]).tolist()
    [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    """
    t, q = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if t.ndim != 2 or t.shape != q.shape or not t.size:
        raise ParameterError("anytime_quality", "quality", q.shape, allowed=f"of the shape of cost, {t.shape}")
    known = np.where(np.isnan(t) | np.isnan(q), np.inf, t)
    if np.any(known[:, 1:] < known[:, :-1]):
        raise ParameterError("anytime_quality", "cost", "falls along a row", allowed="rising, missing answers last")
    stops = np.atleast_1d(np.asarray(budgets, dtype=np.float64))
    padded = np.column_stack([np.zeros(len(q)), np.nan_to_num(q)])
    answers = (known[:, :, None] <= stops).sum(axis=1)
    return np.asarray(np.take_along_axis(padded, answers, axis=1))


class Controllability(NamedTuple):
    """How well a run keeps to the compute asked for.

    Attributes:
        control: share of runs whose compute lies in the range allowed.
        relative_deviation: mean of |spent - asked| / asked; NaN if nothing was asked.
        rmse: root mean squared difference of spent and asked, in the unit of compute; NaN if nothing was asked.
    """

    control: float
    relative_deviation: float
    rmse: float


def controllability(
    spent: ArrayLike, asked: ArrayLike | None = None, *, least: float = 0.0, most: float = math.inf
) -> Controllability:
    """Measure it.

    Args:
        spent: compute of each run.
        asked: what each run was asked to spend, above 0; one number for all, or one each.
        least: smallest compute allowed.
        most: largest compute allowed.

    >>> controllability([90, 110, 150], 100, most=120)
    Controllability(control=0.6666666666666666, relative_deviation=0.2333333333333333, rmse=30.0)
    """
    x = np.asarray(spent, dtype=np.float64)
    if x.ndim != 1 or not x.size or not np.all(np.isfinite(x)):
        raise ParameterError("controllability", "spent", spent, allowed="one finite number a run, one run or more")
    inside = float(np.mean((x >= least) & (x <= most)))
    if asked is None:
        return Controllability(inside, math.nan, math.nan)
    goal = np.broadcast_to(np.asarray(asked, dtype=np.float64), x.shape)
    if not np.all(goal > 0):
        raise ParameterError("controllability", "asked", asked, allowed="above 0")
    gap = x - goal
    return Controllability(inside, float(np.mean(np.abs(gap) / goal)), float(np.sqrt(np.mean(gap**2))))


def _two(budget: ArrayLike, quality: ArrayLike) -> tuple[Floats, Floats]:
    x, y = merged(budget, quality)
    if x.size < 2:
        raise LawFitError(f"a slope or an area needs two different budgets; there is only {x[0]:g}")
    return x, y
