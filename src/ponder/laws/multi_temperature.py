"""Coverage over a grid of temperatures, from success rates or from saved samples.

Paper    Wu et al. 2025, "On the Role of Temperature Sampling in Test-Time Scaling" (Pass@All over temperatures).
Differs  The union is always shown next to single temperatures with the whole budget, the fair comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ponder.errors import LawFitError, ParameterError

Floats = npt.NDArray[np.float64]


def expected_coverage(rates: Floats, draws: Sequence[int]) -> float:
    """Expected share of problems that any draw solves: mean over q of 1 - Π_T (1 - p_q(T))^n_T.

    Args:
        rates: success rate of each problem at each temperature, shape (P, T).
        draws: draws at each temperature.

    >>> round(expected_coverage(np.array([[0.5, 0.0], [0.0, 0.5]]), [1, 1]), 3)
    0.5
    """
    array = np.asarray(rates, dtype=float)
    if array.ndim != 2 or array.shape[1] != len(draws):
        raise ParameterError("expected_coverage", "draws", tuple(draws), allowed="one number per column of rates")
    return float((1.0 - np.prod((1.0 - array) ** np.asarray(draws), axis=1)).mean())


@dataclass(frozen=True, slots=True)
class TemperatureCoverage:
    """Which temperatures solve which problems, at equal budgets.

    Attributes:
        solved: per temperature, the share of problems that any of its samples solves.
        unique: per temperature, the share that it alone solves.
        union: share solved at any temperature.
        single: per temperature, the expected share if the whole budget were drawn there; None where too few
            samples are saved.
        best_single: the best of `single`, chosen on the same problems (an optimistic baseline); None if unknown.
        samples: samples per problem over all temperatures.
    """

    solved: Mapping[float, float]
    unique: Mapping[float, float]
    union: float
    single: Mapping[float, float | None]
    best_single: float | None
    samples: int


def temperature_coverage(
    right: Mapping[float, npt.NDArray[np.bool_]], larger: Mapping[float, npt.NDArray[np.bool_]] | None = None
) -> TemperatureCoverage:
    """Coverage per temperature and of the union.

    Args:
        right: per temperature, whether each sample is right, shape (P, n_T).
        larger: per temperature, verdicts of a larger pool, to know what one temperature does with the whole
            budget; None uses `right` itself where it is large enough.

    Raises:
        LawFitError: no temperatures, or different numbers of problems.
    """
    if not right or len({len(v) for v in right.values()}) != 1:
        raise LawFitError("temperature_coverage needs at least one temperature, and the same problems at each")
    solved = {t: v.any(axis=1) for t, v in right.items()}
    total = np.sum(list(solved.values()), axis=0)
    samples = sum(v.shape[1] for v in right.values())
    single = {t: _pass_at(v, samples) for t, v in (larger or right).items()}
    known = [v for v in single.values() if v is not None]
    return TemperatureCoverage(
        {t: float(v.mean()) for t, v in solved.items()},
        {t: float((v & (total == 1)).mean()) for t, v in solved.items()},
        float((total > 0).mean()),
        single,
        max(known, default=None),
        samples,
    )


def _pass_at(right: npt.NDArray[np.bool_], k: int) -> float | None:
    """Mean chance that a random k-subset holds a right sample; None with fewer than k samples."""
    n = right.shape[1]
    if k > n:
        return None
    missed = []
    for count in right.sum(axis=1):
        wrong = n - int(count)
        missed.append(0.0 if wrong < k else float(np.prod(1.0 - k / np.arange(wrong + 1, n + 1))))
    return 1.0 - float(np.mean(missed))
