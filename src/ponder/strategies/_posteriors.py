"""What AB-MCTS believes about scores: posteriors from counts, sums and sums of squares, and draws from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ponder.core.pool import Floats

_MEAN, _KAPPA, _NU, _TAU2 = 0.0, 1.0, 1.0, 0.1
"""Of the normal-inverse-χ² prior."""
_GRID = 24
"""Points of the mixed model's grid in each direction."""


class Sums:
    """Count, sum and sum of squares of the scores in each of many groups; grows as groups are added."""

    def __init__(self, groups: int = 0) -> None:
        self._rows = np.zeros((max(4, groups), 3))
        self.groups = groups

    @property
    def rows(self) -> Floats:
        """Shape (groups, 3)."""
        return self._rows[: self.groups]

    def new(self) -> int:
        """The place of another, empty group."""
        if self.groups == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self.groups += 1
        return self.groups - 1

    def add(self, group: int, score: float) -> None:
        """One more score."""
        self._rows[group] += (1.0, score, score * score)


def rescaled(rows: Floats, low: float, high: float) -> Floats:
    """Sums of (score - low) / (high - low) from those of the scores."""
    n, total, squares = rows.T
    width = high - low if high > low else 1.0
    moved = total - n * low
    return np.stack([n, moved / width, (squares - 2 * low * total + n * low * low) / width**2], axis=1)


def normal_posterior(rows: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Parameters m, κ, ν, τ² of normal-inverse-χ² posteriors.

    Args:
        rows: (k, 3) counts, sums and sums of squares.

    >>> [round(float(p[0]), 6) for p in normal_posterior(np.array([[2, 1.0, 0.68]]))]
    [0.333333, 3.0, 3.0, 0.148889]
    """
    n, total, squares = rows.T
    mean = total / np.maximum(n, 1)
    spread = np.maximum(squares - n * mean**2, 0.0)
    kappa, nu = _KAPPA + n, _NU + n
    tau2 = (_NU * _TAU2 + spread + n * _KAPPA * (_MEAN - mean) ** 2 / kappa) / nu
    return (_KAPPA * _MEAN + total) / kappa, kappa, nu, tau2


def draw_normal(rows: Floats, rng: np.random.Generator) -> Floats:
    """One draw of each group's mean: σ² from its inverse gamma, then the mean given σ²."""
    mean, kappa, nu, tau2 = normal_posterior(rows)
    variance = nu * tau2 / (2 * rng.standard_gamma(nu / 2))
    return np.asarray(mean + np.sqrt(variance / kappa) * rng.standard_normal(len(rows)))


def beta_posterior(rows: Floats) -> tuple[Floats, Floats]:
    """Parameters a, b of Beta posteriors from Beta(½, ½): a score y counts as y successes and 1 - y failures."""
    n, total, _ = rows.T
    return 0.5 + np.clip(total, 0, n), 0.5 + np.clip(n - total, 0, n)


def draw_beta(rows: Floats, rng: np.random.Generator) -> Floats:
    """One draw of each group's mean."""
    return np.asarray(rng.beta(*beta_posterior(rows)))


def draw_mixed(rows: Floats, rng: np.random.Generator) -> Floats:
    """One posterior predictive score for each group, and last for a group not yet seen, under the mixed model.

    A score in group j is α_j + Normal(0, σ_y²), with α_j from Normal(μ, σ_α²), μ from Normal(0.5, 0.2²), and
    half-normal scales of 0.2 for σ_α and 0.3 for σ_y. Both σ are drawn from a grid, with μ and α integrated out; then
    μ, α and the scores are drawn in turn.

    Args:
        rows: (k, 3), each group with at least one score.
        rng: gives the draws.

    Returns:
        Shape (k + 1,).
    """
    sigma_a, sigma_y, log_weight = mixed_grid(rows)
    cell = int(np.searchsorted(np.cumsum(np.exp(log_weight)), rng.random(), side="right"))
    cell = min(cell, len(log_weight) - 1)
    a2, y2 = sigma_a[cell] ** 2, sigma_y[cell] ** 2
    n, mean = rows[:, 0], rows[:, 1] / rows[:, 0]
    precision = 1 / (a2 + y2 / n)
    total = 1 / 0.2**2 + precision.sum()
    mu = rng.normal((0.5 / 0.2**2 + (precision * mean).sum()) / total, total**-0.5)
    own = 1 / a2 + n / y2
    alpha = rng.normal((mu / a2 + n * mean / y2) / own, own**-0.5)
    alpha = np.append(alpha, rng.normal(mu, a2**0.5))
    return np.asarray(rng.normal(alpha, y2**0.5))


def mixed_grid(rows: Floats) -> tuple[Floats, Floats, Floats]:
    """Grid points (σ_α, σ_y), each shape (G,), and their log posterior weights, which sum to 1 as probabilities."""
    quantiles = (np.arange(_GRID) + 0.5) / _GRID
    points = np.asarray([_half_normal(q) for q in quantiles])  # equal prior mass each
    sigma_a, sigma_y = (grid.ravel() for grid in np.meshgrid(0.2 * points, 0.3 * points, indexing="ij"))
    n, total, squares = rows.T
    mean = total / n
    within = max(float((squares - n * mean**2).sum()), 0.0)
    variance = sigma_a[:, None] ** 2 + sigma_y[:, None] ** 2 / n  # of each group's mean around μ
    precision = 1 / variance
    prior = 1 / 0.2**2
    summed = precision.sum(axis=1) + prior
    centre = ((precision * mean).sum(axis=1) + prior * 0.5) / summed
    misfit = (precision * mean**2).sum(axis=1) + prior * 0.25 - summed * centre**2
    log_weight = -0.5 * (np.log(variance).sum(axis=1) + np.log(summed) + misfit)
    log_weight -= (n.sum() - len(n)) * np.log(sigma_y) + within / (2 * sigma_y**2)
    log_weight -= log_weight.max()
    return sigma_a, sigma_y, np.asarray(log_weight - math.log(np.exp(log_weight).sum()))


def _half_normal(quantile: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + quantile / 2)


def largest(values: Sequence[float] | npt.NDArray[np.float64]) -> int:
    """Place of the largest; the first of equals."""
    return int(np.argmax(values))
