"""How far one coverage curve lies to the right of another: the factor of draws that one model needs more.

Paper    Brown et al. 2024, "Large Language Monkeys", §3 (curves of one family often differ only by a shift in ln k).
Needs    Two curves.    Cost: milliseconds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import LawFitError, ParameterError

Floats = NDArray[np.float64]


class CurveShift(NamedTuple):
    """The shift that best lays the second curve over the first.

    Attributes:
        shift: in ln k; above 0 means that the second curve needs more draws.
        factor: exp(shift): how many times more.
        residual: root mean squared distance that is left, in coverage.
        overlap: points of the second curve that the first one could be compared with.
    """

    shift: float
    factor: float
    residual: float
    overlap: int


def curve_shift(k: ArrayLike, coverage: ArrayLike, other_k: ArrayLike, other_coverage: ArrayLike) -> CurveShift:
    """Find s such that other(k · e^s) ≈ curve(k), by least squares over the overlap.

    Args:
        k: draws of the first curve, rising, above 0, 2 or more.
        coverage: its coverage.
        other_k: draws of the second curve, rising.
        other_coverage: its coverage.

    Returns:
        The shift, what it leaves over, and on how many points it rests. Between its points the first curve is
        taken as straight in ln k. Only shifts that lay half of the second curve's points (3 at least) over the
        first one are tried.

    Raises:
        ParameterError: shapes differ, k not rising, or fewer than 3 points in the second curve.
        LawFitError: the first curve is constant, so no shift is better than another.

    >>> k = np.array([1, 2, 4, 8, 16, 32])
    >>> round(curve_shift(k, 1 - 0.9**k, 2 * k, 1 - 0.9**k).factor, 3)
    2.0
    """
    x, y = _checked("k", k, coverage, 2)
    u, v = _checked("other_k", other_k, other_coverage, 3)
    if np.ptp(y) < 1e-9:
        raise LawFitError("the first curve is constant, so no shift is better than another")
    least = max(3, math.ceil(u.size / 2))

    def distance(shift: float) -> tuple[float, int]:
        moved = u - shift
        inside = (moved >= x[0] - 1e-9) & (moved <= x[-1] + 1e-9)
        count = int(inside.sum())
        if count < least:
            return math.inf, count
        return float(((np.interp(moved[inside], x, y) - v[inside]) ** 2).mean()), count

    shifts = np.linspace(u[0] - x[-1], u[-1] - x[0], 801)
    best = float(min(shifts, key=lambda s: distance(s)[0]))
    width = float(shifts[1] - shifts[0])
    while width > 1e-10:
        best = min((best - width / 2, best, best + width / 2), key=lambda s: distance(s)[0])
        width /= 2
    error, count = distance(best)
    if not math.isfinite(error):
        raise LawFitError("no shift lays enough of the second curve over the first one; measure more points")
    return CurveShift(best, math.exp(best), math.sqrt(error), count)


def _checked(name: str, k: ArrayLike, coverage: ArrayLike, least: int) -> tuple[Floats, Floats]:
    sizes, curve = np.asarray(k, dtype=np.float64), np.asarray(coverage, dtype=np.float64)
    if sizes.ndim != 1 or sizes.shape != curve.shape or sizes.size < least:
        raise ParameterError("curve_shift", name, sizes.shape, allowed=f"{least} points or more, each with a coverage")
    if np.any(~(sizes > 0)) or np.any(np.diff(sizes) <= 0):
        raise ParameterError("curve_shift", name, sizes.tolist(), allowed="above 0 and rising")
    return np.log(sizes), curve
