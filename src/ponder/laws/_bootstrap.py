"""Intervals of a fitted law from a bootstrap over problems, corrected for bias, skew and few problems.

A plain percentile interval of a fitted parameter covers 90 to 93 % where it says 95 %: the parameter is a curved
function of the data, and with few problems the bootstrap is narrower than the truth. Both are corrected here; how
often the intervals then hold is measured in `benchmarks/law_intervals.py`.

Sources  Efron 1987, "Better Bootstrap Confidence Intervals" (BCa); Hesterberg 2015, "What Teachers Should Know About
         the Bootstrap", §5 (expanded percentiles: t quantiles and the factor √(n / (n - 1))).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]

_NORMAL = NormalDist()


@dataclass(frozen=True)
class ProblemBootstrap:
    """A law's parameters on all problems, on resampled problems, and with each problem left out.

    Attributes:
        estimate: on all problems, shape (p,).
        draws: one row a resample, shape (resamples, p).
        left_out: with one problem left out, shape (groups, p); problems with the same counts share a row.
        times: how many problems each of those rows stands for, shape (groups,).
    """

    estimate: Floats
    draws: Floats
    left_out: Floats
    times: Floats

    @property
    def n_problems(self) -> int:
        """Problems behind the fit."""
        return round(float(self.times.sum()))

    def interval(self, function: Curve, level: float = 0.95) -> tuple[Floats, Floats]:
        """Ends of the interval of a function of the parameters.

        Args:
            function: from parameters, shape (m, p), to values, shape (m, q).
            level: between 0 and 1.

        Returns:
            Two arrays of shape (q,). Values that are not finite in a resample are left out.
        """
        centre = function(self.estimate[None, :])[0]
        draws, left_out = function(self.draws), function(self.left_out)
        ends = [bca(draws[:, j], float(centre[j]), left_out[:, j], self.times, level=level) for j in range(centre.size)]
        return np.array([e[0] for e in ends]), np.array([e[1] for e in ends])


def bca(
    draws: Floats, estimate: float, left_out: Floats, times: Floats | None = None, *, level: float = 0.95
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval with expanded percentiles.

    Args:
        draws: the statistic on resampled problems; not finite ones are left out.
        estimate: the statistic on all problems.
        left_out: the statistic with a problem left out, one value a group of equal problems.
        times: problems in each group; one each if None.
        level: between 0 and 1.

    Returns:
        The two ends; both the estimate if nothing varies.
    """
    from ponder.laws.intervals import _level

    tail = (1 - _level(level)) / 2
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return math.nan, math.nan
    counts = np.ones(left_out.size) if times is None else times
    n = float(counts.sum())
    below = (np.sum(finite < estimate) + 0.5 * np.sum(finite == estimate)) / finite.size
    edge = 0.5 / finite.size
    bias = _NORMAL.inv_cdf(float(np.clip(below, edge, 1 - edge)))
    skew = acceleration(left_out, counts)
    reach = student_quantile(1 - tail, n - 1) * math.sqrt(n / (n - 1)) if n > 1 else _NORMAL.inv_cdf(1 - tail)
    shares = []
    for z in (-reach, reach):
        moved = bias + z
        shares.append(_NORMAL.cdf(bias + moved / max(1 - skew * moved, 0.05)))
    low, high = np.quantile(finite, shares)
    return float(low), float(high)


def acceleration(left_out: Floats, times: Floats) -> float:
    """Skewness of the jackknife over 6: how fast the statistic's spread grows with its value; 0 if nothing varies."""
    known = np.isfinite(left_out)
    values, weights = left_out[known], times[known]
    if not values.size:
        return 0.0
    gap = float(values @ weights / weights.sum()) - values
    square = float(weights @ gap**2)
    return float(weights @ gap**3) / (6 * square**1.5) if square > 1e-24 else 0.0


def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t: exact for up to 30 whole degrees of freedom, else by the Cornish-Fisher series.

    Source: Abramowitz & Stegun 1964, 26.7.3, 26.7.4 and 26.7.5.

    >>> [round(student_quantile(0.975, v), 3) for v in (1, 4, 10, 1e9)]
    [12.706, 2.776, 2.228, 1.96]
    """
    z, v = _NORMAL.inv_cdf(probability), max(freedom, 1.0)
    if v <= 30:
        whole, low, high = int(v), -1e4, 1e4
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if _student(middle, whole) < probability else (low, middle)
        return (low + high) / 2
    series = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / v ** (i + 1) for i, term in enumerate(series))


def _student(t: float, freedom: int) -> float:
    """Distribution of Student's t for a whole number of degrees of freedom."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for j in range(freedom // 2):
        total += term
        term *= cosine**2 * ((2 * j + 2) / (2 * j + 3) if odd else (2 * j + 1) / (2 * j + 2))
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + inside / 2


def leave_one_out(times: Floats) -> Any:
    """Weights that leave out one problem of each group, shape (groups, groups).

    >>> leave_one_out(np.array([2.0, 1.0])).tolist()
    [[1.0, 1.0], [2.0, 0.0]]
    """
    return times[None, :] - np.eye(times.size)
