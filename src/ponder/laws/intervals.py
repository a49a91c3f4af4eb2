"""Intervals for what a finite set of problems can say: Wilson for a share, bootstrap over problems for the rest.

The problem is the unit that is resampled, never the draw: draws of one problem share its difficulty, and a new
study would meet new problems. A comparison of two methods on the same problems is paired: the same resampled
problems go to both.

Sources  Wilson 1927; Efron 1979 (percentile bootstrap); Zou & Donner 2008, "Construction of Confidence Limits about
         Effect Measures" (the interval of a difference from those of its parts).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import ParameterError

Floats = NDArray[np.float64]

RESAMPLES = 1000

_NORMAL = NormalDist()


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
        z = _NORMAL.inv_cdf(0.5 + level / 2) + _NORMAL.inv_cdf(power)
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
    share = successes / n
    return Interval(share, *score_ends(share, n, _NORMAL.inv_cdf(0.5 + _level(level) / 2)))


def score_ends(share: float, n: float, reach: float) -> tuple[float, float]:
    """Ends of Wilson's interval for a share of n trials, n > 0, at `reach` standard errors."""
    square = reach * reach / n
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square * square / 4) / (1 + square)
    return 0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half)


def clustered_share(hits: ArrayLike, cluster: Sequence[Hashable], *, level: float = 0.95) -> Interval:
    """Share of hits among samples of which several belong to one problem, with Wilson's interval.

    The interval is that of as many independent trials as give the share its spread over problems, at most the number
    of samples, with Student's quantile for the number of problems. Without a miss, or without a hit, each problem
    counts as one trial. If every sample is of a problem of its own it is `wilson_interval`.

    Args:
        hits: true or false, shape (samples,).
        cluster: the problem of each sample.
        level: between 0 and 1.

    Raises:
        ParameterError: no samples, or lengths that differ.

    Source: Korn & Graubard 1998, "Confidence Intervals for Proportions with Small Expected Number of Positive Counts".

    >>> clustered_share([1, 1, 0, 0], "abcd") == wilson_interval(2, 4)
    True
    """
    hit = np.asarray(hits, dtype=np.float64)
    if hit.ndim != 1 or not 0 < hit.size == len(cluster):
        raise ParameterError(
            "clustered_share", "cluster", len(cluster), allowed=f"one for each of 1 hit or more, {hit.shape}"
        )
    ids: dict[Hashable, int] = {}
    member = np.array([ids.setdefault(c, len(ids)) for c in cluster])
    return pooled_share(np.bincount(member, hit), np.bincount(member), level=level)


def pooled_share(hits: ArrayLike, trials: ArrayLike, *, level: float = 0.95) -> Interval:
    """`clustered_share` from the hits and the trials of each problem, both of shape (problems,).

    Problems without a trial do not count.
    """
    some = np.asarray(trials) > 0
    hit, of = np.asarray(hits, dtype=np.float64)[some], np.asarray(trials, dtype=np.float64)[some]
    samples, problems = float(of.sum()), hit.size
    if problems == samples:
        return wilson_interval(float(hit.sum()), problems, level)
    share, alone = float(hit.sum()) / samples, float(problems)
    if 0 < share < 1 and problems > 1:
        excess = hit - share * of
        variance = float(excess @ excess) * problems / (problems - 1) / samples**2
        alone = min(samples, share * (1 - share) / variance) if variance > 0 else samples
    return Interval(share, *score_ends(share, alone, student_quantile(0.5 + _level(level) / 2, problems - 1)))


def mean_interval(values: ArrayLike, lowest: float = 0.0, highest: float = 1.0, *, level: float = 0.95) -> Interval:
    """Mean of one bounded value a problem, and its interval; for many equal values, zeros and ones too.

    Gains (above 0) and losses (below 0) each get Wilson's interval for a share of their bound, with as many trials as
    their spread is worth, and the two make that of the difference. A rare dear loss that no problem showed is so
    still allowed for; the bootstrap and Student's t know nothing of it.

    Args:
        values: one a problem, shape (problems,): a quality, a slope, an area.
        lowest: the least value a problem can have; of values that differ in it, the mean.
        highest: the largest.
        level: between 0 and 1.

    Returns:
        The mean and an interval inside the bounds; all of them for one problem.

    Raises:
        ParameterError: no problems, not finite, a mean outside the bounds, or a level outside (0, 1).

    >>> [round(x, 3) for x in mean_interval([1, 1, 1, 1, 1, 1, 1, 0])]
    [0.875, 0.432, 0.985]
    """
    found = np.asarray(values, dtype=np.float64).reshape(-1)
    if not found.size or not np.all(np.isfinite(found)):
        raise ParameterError("mean_interval", "values", values, allowed="finite numbers, one a problem")
    mean, tail = float(found.mean()), 0.5 + _level(level) / 2
    slack = 1e-9 * max(abs(lowest), abs(highest))
    if not lowest - slack <= mean <= highest + slack:
        raise ParameterError("mean_interval", "values", f"mean {mean:g}", allowed=f"in [{lowest:g}, {highest:g}]")
    if found.size < 2:
        return Interval(mean, lowest, highest)
    zero = min(max(0.0, lowest), highest)
    gains, losses = np.maximum(found - zero, 0), np.maximum(zero - found, 0)
    gain, loss = float(gains.mean()), float(losses.mean())
    reach = student_quantile(tail, found.size - 1)
    least_gain, most_gain = _bounded_ends(gains, highest - zero, reach)
    least_loss, most_loss = _bounded_ends(losses, zero - lowest, reach)
    together = float(((gains - gain) * (losses - loss)).mean())
    tie = together / (float(gains.std() * losses.std()) or 1.0)

    def apart(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a + b * b - 2 * tie * a * b))

    low, high = mean - apart(gain - least_gain, most_loss - loss), mean + apart(most_gain - gain, loss - least_loss)
    return Interval(mean, min(mean, max(low, lowest)), max(mean, min(high, highest)))


def _bounded_ends(values: Floats, most: float, reach: float) -> tuple[float, float]:
    """Ends of the interval of the mean of values in [0, most]; both 0 if most is 0."""
    if most <= 0:
        return 0.0, 0.0
    share, variance = min(1.0, float(values.mean()) / most), float(values.var(ddof=1)) / most**2
    if variance > 1e-18:
        trials = values.size * max(share * (1 - share), 1e-9) / variance
    elif 0 < share < 1:
        return share * most, share * most
    else:
        trials = values.size
    low, high = score_ends(share, trials, reach)
    return low * most, high * most


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
