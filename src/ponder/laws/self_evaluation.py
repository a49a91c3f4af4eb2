"""What adaptive sampling with a calibrated score achieves.

Paper    Manvi et al. 2024, "Adaptive Inference-Time Compute" (the closed forms are derived here).

The quality of a draw is Normal(μ, 1) within a prompt and the score is s = Φ(y - μ), the chance that a fresh draw
is not better. Stopping at s ≥ τ takes 1/(1-τ) draws on average and yields φ(Φ^-1(τ))/(1-τ) standard deviations
above a single draw; with at most N draws both are cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ponder.errors import ParameterError

_NORMAL = NormalDist()


def expected_samples(threshold: float, n: int | None = None) -> float:
    """Mean number of draws until a score reaches `threshold`, at most `n` of them.

    >>> expected_samples(0.8), round(expected_samples(0.8, 4), 4)
    (5.000000000000001, 2.952)
    """
    _check(threshold, n)
    if n is None:
        return math.inf if threshold >= 1 else 1 / (1 - threshold)
    return float(n) if threshold >= 1 else (1 - threshold**n) / (1 - threshold)


def expected_quality(threshold: float, n: int | None = None) -> float:
    """Mean quality of the returned draw, in standard deviations above a single draw.

    Without `n`: φ(Φ^-1(τ))/(1-τ). With it: the best of `n` draws if none reaches the threshold.

    >>> round(expected_quality(0.8), 4), round(expected_quality(1.0, 16), 3)
    (1.3998, 1.766)
    """
    _check(threshold, n)
    if n is not None and threshold >= 1:
        return best_of_n_quality(n)
    if threshold <= 0:
        return 0.0
    if threshold >= 1:
        return math.inf
    z = _NORMAL.inv_cdf(threshold)
    reached = _NORMAL.pdf(z) / (1 - threshold)
    if n is None:
        return float(reached)
    # Best of n draws that all stay below z: density n φ(x) Φ(x)^(n-1) / τ^n.
    x = np.linspace(-10.0, z, 4001)
    cdf = np.asarray([_NORMAL.cdf(float(v)) for v in x])
    missed = z * float(cdf[-1]) ** n - _integral(cdf**n, x)
    return float((1 - threshold**n) * reached + missed)


def best_of_n_quality(n: int) -> float:
    """Mean of the best of `n` draws, in standard deviations above a single draw.

    >>> round(best_of_n_quality(2), 4), best_of_n_quality(1)
    (0.5642, 0.0)
    """
    if n < 1:
        raise ParameterError("best_of_n_quality", "n", n, allowed="an integer ≥ 1")
    if n == 1:
        return 0.0
    x = np.linspace(-10.0, 10.0, 8001)
    cdf = np.asarray([_NORMAL.cdf(float(v)) for v in x])
    return 10.0 - _integral(cdf**n, x)


def gain_share(threshold: float, n: int = 16) -> float:
    """Share of the gain of best-of-`n` over one draw that adaptive sampling with the same limit keeps."""
    return expected_quality(threshold, n) / best_of_n_quality(n)


class BinaryOutcome(NamedTuple):
    """Attributes: mean samples of adaptive sampling, its accuracy, and the share of best-of-n's gain it keeps."""

    samples: float
    accuracy: float
    gain_share: float


def binary_adaptive(rates: Sequence[float] | npt.NDArray[np.float64], threshold: float, n: int = 16) -> BinaryOutcome:
    """Adaptive sampling of right-or-wrong answers with a calibrated score, exactly.

    The score of a right answer is 1, that of a wrong one 1 - p, the chance that a fresh draw is not better on a
    prompt with success rate p. So prompts on which more draws are hopeless are left at once, which prompts of
    equal difficulty do not allow.

    Args:
        rates: success rates of the prompts.
        threshold: τ; drawing goes on after a wrong answer where p > 1 - τ.
        n: draws at most.
    """
    _check(threshold, n)
    p = np.clip(np.asarray(rates, dtype=float), 1e-12, 1.0)
    solved = 1.0 - (1.0 - p) ** n
    goes_on = 1.0 - p < threshold
    accuracy = float(np.where(goes_on, solved, p).mean())
    samples = float(np.where(goes_on, solved / p, 1.0).mean())
    gain = float(solved.mean() - p.mean())
    return BinaryOutcome(samples, accuracy, (accuracy - float(p.mean())) / gain if gain > 0 else math.nan)


def threshold_for(samples: float, n: int | None = None) -> float:
    """The threshold at which `samples` draws are made on average, with at most `n`.

    >>> round(threshold_for(1.2), 4)
    0.1667
    """
    if samples < 1 or (n is not None and samples > n):
        raise ParameterError("threshold_for", "samples", samples, allowed=f"from 1 to {n or 'infinity'}")
    if n is None:
        return 1 - 1 / samples
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_samples(middle, n) < samples else (low, middle)
    return (low + high) / 2


def calibrated_threshold(scores: Sequence[Sequence[float]], samples: float) -> float:
    """The threshold that makes adaptive sampling draw `samples` on average on held-out prompts.

    Args:
        scores: per prompt the scores of its draws, in draw order; their number is the limit.
        samples: target mean number of draws.

    Returns:
        The largest observed score whose mean number of draws does not pass the target.
    """
    if not scores or not all(len(row) for row in scores):
        raise ParameterError("calibrated_threshold", "scores", scores, allowed="at least one score per prompt")
    if samples < 1:
        raise ParameterError("calibrated_threshold", "samples", samples, allowed="a number ≥ 1")

    def mean_draws(threshold: float) -> float:
        return float(np.mean([next((i for i, s in enumerate(row, 1) if s >= threshold), len(row)) for row in scores]))

    levels = sorted({s for row in scores for s in row})
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if mean_draws(levels[middle]) <= samples else (low, middle - 1)
    return levels[low]


def pruning_tokens(n: int, length: int, after: int, keep: float) -> int:
    """Tokens of early pruning: n·t + kept·(L - t), with kept = max(1, ceil(keep·n)).

    >>> pruning_tokens(16, 256, 64, 0.25)
    1792
    """
    kept = max(1, math.ceil(keep * n))
    return n * min(after, length) + kept * max(length - after, 0)


def _integral(values: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> float:
    """The trapezoidal rule on an even grid."""
    return float((x[1] - x[0]) * (values.sum() - (values[0] + values[-1]) / 2))


def _check(threshold: float, n: int | None) -> None:
    if math.isnan(threshold):
        raise ParameterError("adaptive sampling", "threshold", threshold, allowed="a number")
    if n is not None and n < 1:
        raise ParameterError("adaptive sampling", "n", n, allowed="an integer ≥ 1 or none")
