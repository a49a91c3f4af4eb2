"""ARISE: how well quality follows compute, problem by problem; gains count more if cheap, losses more if dear.

Paper    "ARISE: An Adaptive Resolution-Aware Metric for Test-Time Scaling Evaluation in Large Reasoning Models", 2025.
Equal    Σ_j Δ_j · (t_{j-1} / t_j)^{sign Δ_j} per problem, mean over problems.
Differs  A problem with a missing or zero cost is marked invalid, left out and counted (the released code drops the
         transition in silence). Counts of improved, degraded … are per problem, by its first and last level. Cost is
         whatever the study calls compute. The interval is that of `mean_interval`: gains and losses
         apart, each by Wilson's, since a bootstrap knows nothing of a rare loss that no problem showed.
Needs    Quality and cost of each problem at 2 levels or more.    Cost: none.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import ParameterError
from ponder.laws.intervals import mean_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arise:
    """The metric and what is behind it.

    Attributes:
        value: mean over the valid problems; NaN if there is none. In (-∞, ∞); 0 if nothing changes.
        low: lower end of its 95 % interval.
        high: upper end.
        std: standard deviation over problems.
        least: smallest value of a problem.
        most: largest one.
        improved: problems whose last quality is above their first.
        degraded: problems whose last quality is below their first.
        always_right: problems at quality 1 throughout.
        always_wrong: problems at quality 0 throughout.
        mixed: the other valid problems.
        invalid: problems without a quality, or a cost above 0, at every level.
        per_problem: value of each problem, NaN where invalid.
        slope: the baseline that averages first: gain of the mean quality over growth of the mean cost.
    """

    value: float
    low: float
    high: float
    std: float
    least: float
    most: float
    improved: int
    degraded: int
    always_right: int
    always_wrong: int
    mixed: int
    invalid: int
    slope: float
    per_problem: Floats = field(repr=False)


def arise(quality: ArrayLike, cost: ArrayLike) -> Arise:
    """Compute ARISE.

    Args:
        quality: shape (problems, levels), in [0, 1], mean over repeats; levels in the order of intended effort.
        cost: same shape, above 0; a missing or zero one makes its problem invalid, as NaN quality does.

    Raises:
        ParameterError: shapes differ, no problems, quality outside [0, 1], or a negative cost.

    Warns:
        UserWarning: levels are not ordered by mean cost, or a problem is invalid.

    >>> arise([[0, 1, 0]], [[100, 200, 400]]).value
    -1.5
    """
    a, t = np.asarray(quality, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if a.ndim != 2 or a.shape != t.shape or not a.size:
        raise ParameterError(
            "arise", "cost", t.shape, allowed=f"of the shape of quality, {a.shape}: problems by levels",
            hint="Keep only problems that were measured at every level, and say which were dropped",
        )  # fmt: skip
    if np.any((a < 0) | (a > 1)):
        raise ParameterError("arise", "quality", float(a[(a < 0) | (a > 1)][0]), allowed="in [0, 1]")
    if np.any(t < 0):
        raise ParameterError("arise", "cost", float(t[t < 0][0]), allowed="above 0")
    valid = (np.isfinite(a) & np.isfinite(t) & (t > 0)).all(axis=1)
    if not valid.all():
        warnings.warn(f"{int((~valid).sum())} of {len(a)} problems lack a cost or a quality: left out", stacklevel=2)
    values = np.full(len(a), np.nan)
    a, t = a[valid], t[valid]
    if not len(a):
        nan = float("nan")
        return Arise(nan, nan, nan, nan, nan, nan, 0, 0, 0, 0, 0, int((~valid).sum()), nan, values)
    means = t.mean(axis=0)
    if np.any(np.diff(means) < 0):
        order = ", ".join(str(j) for j in np.argsort(means, kind="stable"))
        warnings.warn(f"levels are not ordered by mean cost; the order found is {order}", stacklevel=2)
    found = per_problem(a, t)
    values[valid] = found
    value, low, high = mean_interval(found, *_bounds(t))
    gain = a[:, -1] - a[:, 0]
    right, wrong = (a == 1).all(axis=1), (a == 0).all(axis=1)
    improved, degraded = gain > 0, gain < 0
    growth = float(means[-1] - means[0])
    return Arise(
        value, low, high, float(found.std()), float(found.min()), float(found.max()),
        int(improved.sum()), int(degraded.sum()), int(right.sum()), int(wrong.sum()),
        int((~(improved | degraded | right | wrong)).sum()), int((~valid).sum()),
        float(gain.mean()) / growth if growth > 0 else 0.0, values,
    )  # fmt: skip


def per_problem(quality: Floats, cost: Floats) -> Floats:
    """ARISE of each problem, shape (problems,); 0 for one level."""
    step = np.diff(quality, axis=1)
    return np.asarray((step * (cost[:, :-1] / cost[:, 1:]) ** np.sign(step)).sum(axis=1))


def _bounds(cost: Floats) -> tuple[float, float]:
    """Least and largest ARISE of problems of these costs, each at its own worst and best sequence of 0 and 1."""
    worth = cost[:, :-1] / cost[:, 1:]
    least, most = (np.zeros((2, len(cost))) for _ in range(2))  # a row for ending at 0, one for ending at 1
    for gain in worth.T:
        least = np.stack([np.minimum(least[0], least[1] - 1 / gain), np.minimum(least[1], least[0] + gain)])
        most = np.stack([np.maximum(most[0], most[1] - 1 / gain), np.maximum(most[1], most[0] + gain)])
    return float(least.min(axis=0).mean()), float(most.max(axis=0).mean())
