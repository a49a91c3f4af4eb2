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

import numpy as np
from numpy.typing import NDArray

from ponder.laws.intervals import _level, resampling_weights, student_quantile, wilson_interval

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
        n_solved: problems with a value above 0 in the table.
        corrected: for bias and skew. Not where many resamples end at a bound (a plateau of 1): the share of them
            below the estimate is then no measure of bias.
    """

    estimate: Floats
    draws: Floats
    left_out: Floats
    times: Floats
    n_solved: int
    corrected: bool = True

    @classmethod
    def of(
        cls, table: Floats, fit: Curve, estimate: Floats, *, resamples: int, seed: int, corrected: bool = True
    ) -> ProblemBootstrap:
        """Resample the rows of a table.

        Args:
            table: one row a problem, shape (problems, m).
            fit: from means over problems, shape (sets, m), to parameters, shape (sets, p).
            estimate: the parameters on all problems, shape (p,).
            resamples: how many.
            seed: of the resampling.
            corrected: see above.
        """
        rows, member, times = np.unique(table, axis=0, return_inverse=True, return_counts=True)
        weights = resampling_weights(len(table), resamples=resamples, seed=seed)
        drawn = np.stack([np.bincount(np.ravel(member), w, times.size) for w in weights])
        both = np.concatenate([drawn, times - np.eye(times.size)])
        fits = fit(both @ rows / both.sum(axis=1, keepdims=True))
        solved = int((table > 0).any(axis=1).sum())
        return cls(estimate, fits[:resamples], fits[resamples:], times.astype(np.float64), solved, corrected)

    def interval(self, function: Curve, level: float = 0.95) -> tuple[Floats, Floats]:
        """Ends of the interval of a function of the parameters.

        Args:
            function: from parameters, shape (m, p), to values, shape (m, q).
            level: between 0 and 1.

        Returns:
            Two arrays of shape (q,). Values that are not finite in a resample are left out. If not corrected, the
            interval is extended to the estimate, which may be of a simpler law than the resamples'.
        """
        centre = function(self.estimate[None, :])[0]
        draws, left_out = function(self.draws), function(self.left_out)
        ends = [
            bca(draws[:, j], float(centre[j]), left_out[:, j], self.times, level=level, corrected=self.corrected)
            for j in range(centre.size)
        ]
        low, high = np.array(ends).T
        return (low, high) if self.corrected else (np.minimum(low, centre), np.maximum(high, centre))

    def quality_interval(self, quality: Curve, level: float = 0.95) -> tuple[Floats, Floats]:
        """The same for a quality: the share of problems that can be solved, times the quality on those.

        If nearly every problem was solved, resamples know nothing of the unsolvable ones that other problems would
        include. So the lower end is at most what Wilson's lower end for the share of solved problems leaves.
        """
        low, high = self.interval(quality, level)
        share, least, _ = wilson_interval(self.n_solved, round(float(self.times.sum())), level)
        return np.minimum(low, quality(self.estimate[None, :])[0] * (least / share)), high


def bca(
    draws: Floats, estimate: float, left_out: Floats, times: Floats, *, level: float = 0.95, corrected: bool = True
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval with expanded percentiles.

    Args:
        draws: the statistic on resampled problems; not finite ones are left out.
        estimate: the statistic on all problems.
        left_out: the statistic with a problem left out, one value a group of equal problems.
        times: problems in each group; 2 or more in all.
        level: between 0 and 1.
        n_solved: problems with a value above 0 in the table.
        corrected: for bias and skew; if not, expanded percentiles alone.

    Returns:
        The two ends; both the estimate if nothing varies.
    """
    tail = (1 - _level(level)) / 2
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return math.nan, math.nan
    bias = skew = 0.0
    if corrected:
        below = (np.sum(finite < estimate) + 0.5 * np.sum(finite == estimate)) / finite.size
        edge = 0.5 / finite.size
        bias, skew = _NORMAL.inv_cdf(float(np.clip(below, edge, 1 - edge))), acceleration(left_out, times)
    n = float(times.sum())
    reach = student_quantile(1 - tail, n - 1) * math.sqrt(n / (n - 1))
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
