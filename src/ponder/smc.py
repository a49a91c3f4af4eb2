"""Sequential Monte Carlo: weights, effective sample size and resampling.

Everything is in log space; a weight of zero is a log-weight of -inf. Every resampling scheme is unbiased: a
particle with normalised weight W is drawn N·W times on average.

Source: Doucet & Johansen 2011, "A Tutorial on Particle Filtering and Smoothing"; Douc, Cappé & Moulines 2005,
"Comparison of Resampling Schemes for Particle Filtering".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ponder.errors import AllParticlesDeadError, ParameterError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Scheme = Literal["multinomial", "stratified", "systematic", "residual"]


def normalise(log_weights: Sequence[float] | Floats) -> tuple[Floats, float]:
    """Weights that sum to 1, and the logarithm of the sum of the weights as they were.

    Raises:
        ParameterError: a log-weight is NaN or +inf.
        AllParticlesDeadError: all weights are zero.

    >>> weights, log_sum = normalise([0.0, 0.0])
    >>> weights.tolist(), round(log_sum, 4)
    ([0.5, 0.5], 0.6931)
    """
    logs = np.asarray(log_weights, dtype=float)
    if np.isnan(logs).any() or np.isposinf(logs).any():
        raise ParameterError("smc", "log_weights", logs.tolist(), allowed="numbers, or -inf for a weight of zero")
    largest = logs.max(initial=-np.inf)
    if np.isneginf(largest):
        raise AllParticlesDeadError(
            f"none of {len(logs)} particles has a weight above zero: every one was judged impossible. "
            "Soften the scores (a floor, a higher temperature) or use more particles."
        )
    shifted = np.exp(logs - largest)
    total = float(shifted.sum())
    return shifted / total, float(largest) + math.log(total)


def effective_sample_size(log_weights: Sequence[float] | Floats) -> float:
    """1 / Σ W², in [1, N]: how many equally weighted particles are worth as much. 0 if all weights are zero.

    >>> effective_sample_size([0.0, 0.0, -float("inf"), 0.0])
    3.0
    """
    logs = np.asarray(log_weights, dtype=float)
    if not len(logs) or np.isneginf(logs.max()):
        return 0.0
    weights, _ = normalise(logs)
    return float(np.clip(1.0 / np.square(weights).sum(), 1.0, len(weights)))


def entropy(log_weights: Sequence[float] | Floats) -> float:
    """Entropy of the normalised weights over its largest value log N, in [0, 1]; 1 for a single particle."""
    weights, _ = normalise(log_weights)
    if len(weights) == 1:
        return 1.0
    positive = weights[weights > 0]
    return float(np.clip(-(positive * np.log(positive)).sum() / math.log(len(weights)), 0.0, 1.0))


def resample(
    weights: Sequence[float] | Floats,
    n: int,
    scheme: Scheme = "systematic",
    rng: np.random.Generator | None = None,
) -> Ints:
    """Indices of `n` particles drawn so that particle i comes n·Wᵢ times on average, in rising order.

    `multinomial` draws independently. `stratified` draws once in each n-th of the cumulated weights, `systematic` at
    the same place of each. `residual` takes ⌊n·Wᵢ⌋ copies for certain and draws the rest independently. None
    of the last three varies more than `multinomial`; `systematic` takes ⌊n·Wᵢ⌋ or ⌈n·Wᵢ⌉ copies.

    Args:
        weights: (N,) not negative; need not sum to 1.
        n: how many indices.
        scheme: how they are drawn.
        rng: source of randomness; None makes one from the operating system.

    Raises:
        ParameterError: no positive weight, a negative or NaN one, n < 0, or an unknown scheme.

    >>> resample([0.25, 0.75], 4, "systematic", np.random.default_rng(0)).tolist()
    [0, 1, 1, 1]
    """
    w = np.asarray(weights, dtype=float)
    if w.ndim != 1 or not len(w) or not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise ParameterError("resample", "weights", w.tolist(), allowed="numbers ≥ 0 with at least one above 0")
    if n < 0:
        raise ParameterError("resample", "n", n, allowed="an integer ≥ 0")
    if scheme not in get_args(Scheme):
        raise ParameterError("resample", "scheme", scheme, allowed=" or ".join(get_args(Scheme)))
    rng = np.random.default_rng() if rng is None else rng
    w = w / w.sum()
    if scheme == "residual":
        certain = np.floor(n * w + 1e-12).astype(np.int64)
        rest = n - int(certain.sum())
        if rest > 0:
            left = np.clip(n * w - certain, 0.0, None)
            certain = certain + np.bincount(_at(left / left.sum(), np.sort(rng.random(rest))), minlength=len(w))
        return np.repeat(np.arange(len(w)), certain)
    if scheme == "multinomial":
        points = np.sort(rng.random(n))
    elif scheme == "stratified":
        points = (np.arange(n) + rng.random(n)) / max(n, 1)
    else:
        points = (np.arange(n) + rng.random()) / max(n, 1)
    return _at(w, points)


def _at(weights: Floats, points: Floats) -> Ints:
    """The particle in whose stretch of the cumulated weights each point of [0, 1) lies; never one of weight 0."""
    alive = np.flatnonzero(weights)
    edges = np.cumsum(weights[alive])
    edges[-1] = 1.0
    return alive[np.minimum(np.searchsorted(edges, points, side="right"), len(alive) - 1)]
