"""Non-linear least squares for a few parameters, many data sets at once (a bootstrap is one call)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Model = Callable[[Floats], tuple[Floats, Floats]]


def levenberg_marquardt(
    model: Model, y: Floats, start: Floats, *, iterations: int = 200, tolerance: float = 1e-14
) -> tuple[Floats, Floats]:
    """Minimise the squared distance of a model to each row of y.

    Args:
        model: from parameters, shape (sets, p), to values (sets, m) and their derivatives (sets, m, p).
        y: shape (sets, m).
        start: shape (sets, p).
        iterations: at most this many steps.
        tolerance: stop when no set's sum of squares falls by more than this share.

    Returns:
        The parameters, shape (sets, p), and the sums of squares, shape (sets,). A step is only ever taken if it
        lowers the sum, so the result is never worse than the start.

    Source: Marquardt 1963, with the diagonal scaling of Fletcher 1971.
    """
    theta = np.array(start, dtype=np.float64)
    values, slopes = model(theta)
    rss = ((y - values) ** 2).sum(axis=1)
    damping = np.full(len(theta), 1e-3)
    live = np.arange(len(theta))  # a set that has converged leaves, so the slowest ones do not hold up the rest
    eye = np.eye(theta.shape[1])
    for _ in range(iterations):
        error = y[live] - values
        gradient = np.einsum("smp,sm->sp", slopes, error)
        normal = np.einsum("smp,smq->spq", slopes, slopes)
        scale = np.maximum(np.einsum("spp->sp", normal), 1e-12)
        system = normal + (damping[live, None] * scale)[:, :, None] * eye
        step = np.linalg.solve(system, gradient[..., None])[..., 0]
        trial = theta[live] + np.clip(step, -3.0, 3.0)
        trial_values, trial_slopes = model(trial)
        trial_rss = ((y[live] - trial_values) ** 2).sum(axis=1)
        before = rss[live]
        better = np.isfinite(trial_rss) & (trial_rss < before)
        theta[live[better]], rss[live[better]] = trial[better], trial_rss[better]
        values = np.where(better[:, None], trial_values, values)
        slopes = np.where(better[:, None, None], trial_slopes, slopes)
        damping[live] = np.clip(np.where(better, damping[live] / 5, damping[live] * 4), 1e-14, 1e14)
        small = better & (before - trial_rss <= tolerance * before)
        keep = ~(small | (~better & (damping[live] > 1e10)) | (rss[live] < 1e-30))
        live, values, slopes = live[keep], values[keep], slopes[keep]
        if not live.size:
            break
    return theta, rss
