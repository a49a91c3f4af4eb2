"""How far a weighted sample is from a distribution, where that is known."""

from __future__ import annotations

import numpy as np

from ponder.diffusion.schedule import Floats

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def total_variation(p: Floats, q: Floats) -> float:
    """½ Σ |p - q| of two distributions over the same few things.

    >>> total_variation(np.asarray([0.5, 0.5]), np.asarray([1.0, 0.0]))
    0.5
    """
    return float(0.5 * np.abs(np.asarray(p) - np.asarray(q)).sum())


def mmd_squared(x: Floats, y: Floats, weights: Floats | None = None) -> float:
    """Squared maximum mean discrepancy of x (n, d), weighted, from y (m, d): the mean over Gaussian kernels.

    Unbiased for independent samples; weights (n,) need not sum to 1. Near 0 (of either sign) if both are one
    distribution.
    """
    w = np.full(len(x), 1.0 / len(x)) if weights is None else np.asarray(weights) / np.sum(weights)
    own, cross, other = _squared(x, x), _squared(x, y), _squared(y, y)
    pairs = np.outer(w, w)
    off = pairs.sum() - np.trace(pairs)
    total = 0.0
    for h in BANDWIDTHS:
        k = np.exp(-own / (2 * h * h))
        first = ((pairs * k).sum() - np.square(w).sum()) / off if off > 1e-12 else 1.0
        third = (np.exp(-other / (2 * h * h)).sum() - len(y)) / (len(y) * (len(y) - 1))
        total += first + third - 2.0 * float(w @ np.exp(-cross / (2 * h * h)).mean(axis=1))
    return total / len(BANDWIDTHS)


def sliced_wasserstein(
    x: Floats, y: Floats, rng: np.random.Generator, weights: Floats | None = None, directions: int = 100
) -> float:
    """Mean over random directions of the 1-Wasserstein distance, on 512 quantiles; x (n, d) may be weighted."""
    w = np.full(len(x), 1.0 / len(x)) if weights is None else np.asarray(weights) / np.sum(weights)
    v = rng.standard_normal((directions, x.shape[1]))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    levels = (np.arange(512) + 0.5) / 512
    distance = 0.0
    for direction in v:
        projected = x @ direction
        order = np.argsort(projected)
        at = np.minimum(np.searchsorted(np.cumsum(w[order]), levels), len(x) - 1)
        distance += float(np.abs(projected[order][at] - np.quantile(y @ direction, levels)).mean())
    return distance / directions


def mean_pairwise_distance(x: Floats) -> float:
    """Mean Euclidean distance of different rows of x (n, d): how varied a population is; 0 for fewer than two.

    >>> mean_pairwise_distance(np.asarray([[0.0, 0.0], [3.0, 4.0]]))
    5.0
    """
    n = len(x)
    return float(np.sqrt(_squared(x, x)).sum() / (n * (n - 1))) if n > 1 else 0.0


def _squared(x: Floats, y: Floats) -> Floats:
    found: Floats = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)[None] - 2.0 * x @ y.T
    return np.maximum(found, 0.0)
