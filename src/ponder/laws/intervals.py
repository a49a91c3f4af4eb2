"""Intervals for what a finite set of problems can say: Wilson for a share, bootstrap over problems for the rest.

The problem is the unit that is resampled, never the draw: draws of one problem share its difficulty, and a new
study would meet new problems. A comparison of two methods on the same problems is paired: the same resampled
problems go to both.

Sources  Wilson 1927; Efron 1979 (percentile bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import ParameterError

Floats = NDArray[np.float64]

RESAMPLES = 1000


class Interval(NamedTuple):
    """An estimate and the interval around it."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much better one method is than another on the same problems.

    Attributes:
        estimate: mean of the differences.
        low: lower end of the interval.
        high: upper end of the interval.
        probability: share of resamples in which the difference is above 0; exact zeros count one half.
        n: problems.
        spread: standard deviation of the differences over problems.
    """

    estimate: float
    low: float
    high: float
    probability: float
    n: int
    spread: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def problems_to_decide(self, level: float = 0.95, power: float = 0.8) -> int | None:
        """Roughly how many problems would make a difference of this size clear.

        Args:
            level: of the two-sided interval.
            power: chance that the interval then leaves out 0.

        Returns:
            A whole number of problems in all, or None if the difference is exactly 0 and none would do.
        """
        if self.estimate == 0 or self.n < 2:
            return None
        normal = NormalDist()
        z = normal.inv_cdf(0.5 + level / 2) + normal.inv_cdf(power)
        return max(self.n, math.ceil((z * self.spread / self.estimate) ** 2))


def wilson_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a share.

    Args:
        successes: how many of n, 0 ≤ successes ≤ n; a fraction is allowed (shared credit).
        n: trials, n ≥ 1.
        level: between 0 and 1.

    Returns:
        The share and an interval that stays inside [0, 1] and is never empty, at 0 and n successes too.

    Raises:
        ParameterError: n < 1, successes outside 0..n, level outside (0, 1).

    Source: Wilson 1927.

    >>> [round(x, 3) for x in wilson_interval(0, 10)]
    [0.0, 0.0, 0.278]
    """
    if n < 1:
        raise ParameterError("wilson_interval", "n", n, allowed="a whole number ≥ 1")
    if not 0 <= successes <= n:
        raise ParameterError("wilson_interval", "successes", successes, allowed=f"between 0 and n={n}")
    z = NormalDist().inv_cdf(0.5 + _level(level) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(share, low, high)


def bootstrap_means(values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means over resampled problems, the same problems for every column.

    Args:
        values: shape (problems,) or (problems, columns); NaN is not allowed.
        resamples: how many.
        seed: fixes the resampled problems; two calls with one seed and as many problems are paired.

    Returns:
        Shape (resamples,) or (resamples, columns).

    Raises:
        ParameterError: no problems, NaN, or resamples < 1.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim not in (1, 2) or table.shape[0] == 0:
        raise ParameterError("bootstrap", "values", table.shape, allowed="one row or more, one row a problem")
    if not np.all(np.isfinite(table)):
        raise ParameterError("bootstrap", "values", "NaN or infinite", allowed="finite numbers")
    weights = resampling_weights(table.shape[0], resamples=resamples, seed=seed)
    return np.asarray(weights @ table / table.shape[0], dtype=np.float64)


def resampling_weights(n: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """How often each of n problems appears in each resample; shape (resamples, n), rows sum to n."""
    if resamples < 1:
        raise ParameterError("bootstrap", "resamples", resamples, allowed="a whole number ≥ 1")
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[Floats], float] | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval over problems.

    Args:
        values: shape (problems,) or (problems, columns): what was measured on each problem.
        statistic: from the rows of one resample to a number; the mean of a one-dimensional `values` if None.
        level: of the interval.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        The statistic on all problems, and the interval. With one problem the interval is that point: a bootstrap
        cannot see beyond its sample, so prefer `wilson_interval` for a share of few problems.

    Raises:
        ParameterError: no problems, NaN, level outside (0, 1).

    >>> bootstrap_interval([1, 1, 1, 1])
    Interval(estimate=1.0, low=1.0, high=1.0)
    """
    table = np.asarray(values, dtype=np.float64)
    if statistic is None:
        means = bootstrap_means(table.reshape(-1), resamples=resamples, seed=seed)
        return Interval(float(table.mean()), *percentiles(means, level))
    if table.shape[0] == 0:
        raise ParameterError("bootstrap", "values", table.shape, allowed="one row or more, one row a problem")
    rng = np.random.default_rng(seed)
    rows = table.shape[0]
    draws = np.array([statistic(table[rng.integers(rows, size=rows)]) for _ in range(resamples)])
    return Interval(float(statistic(table)), *percentiles(draws, level))


def paired_difference(
    better: ArrayLike, baseline: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """Mean difference of two methods on the same problems, with a bootstrap interval over problems.

    Args:
        better: quality of the one, shape (problems,).
        baseline: quality of the other, the same problems in the same order.
        level: of the interval.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ParameterError: different lengths, none, or NaN.

    >>> paired_difference([1, 1, 0, 1], [1, 1, 0, 1]).probability
    0.5
    """
    a, b = np.asarray(better, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ParameterError(
            "paired_difference", "baseline", b.shape, allowed=f"one value a problem, {a.shape}", hint="pair by problem"
        )
    difference = a - b
    means = bootstrap_means(difference, resamples=resamples, seed=seed)
    low, high = percentiles(means, level)
    above = float(np.mean(means > 1e-12) + 0.5 * np.mean(np.abs(means) <= 1e-12))
    spread = float(difference.std(ddof=1)) if difference.size > 1 else 0.0
    return PairedDifference(float(difference.mean()), low, high, above, difference.size, spread)


def percentiles(draws: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The two ends that leave (1 - level) / 2 on each side, by linear interpolation; NaN draws are ignored."""
    tail = (1 - _level(level)) / 2
    low, high = np.nanquantile(np.asarray(draws, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise ParameterError("interval", "level", level, allowed="between 0 and 1, for example 0.95")
    return level
