"""Intervals from a likelihood: what a function of two parameters can be where the data are likely enough.

The interval of g holds g(θ) for all θ with 2 (ln L(θ̂) - ln L(θ)) ≤ q. Its ends are those of the profile likelihood of
g, for every g at once, so that one search along the edge of the region serves parameters and predictions alike.

Differs  q is n ln(1 + t² / (n - 1)) with t Student's quantile for n - 1, which is exact for the mean of n normal values
         of unknown spread and tends to the quantile of χ² for large n: with 50 problems χ² alone is 3 % too short.
Source   Wilks 1938; Venzon & Moolgavkar 1988, "A Method for Computing Profile-Likelihood-Based Confidence Intervals".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ponder.laws.intervals import _level, student_quantile

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]

_DIRECTIONS = 96
"""Of the search; an end found is at most 0.05 % of half the interval short."""
_STEP = 1e-3


@dataclass(frozen=True)
class LikelihoodRegion:
    """The parameters that the data do not rule out.

    Attributes:
        log_likelihood: from parameters, shape (m, 2), to logarithms, shape (m,).
        estimate: where it is largest, shape (2,).
        bound: no parameter is tried beyond ± this; a region that gets there has no end.
        n_problems: independent observations behind the likelihood, 2 or more.
    """

    log_likelihood: Curve
    estimate: Floats
    bound: float
    n_problems: int
    _edges: dict[float, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    def interval(self, function: Curve, level: float = 0.95) -> tuple[Floats, Floats]:
        """Ends of the interval of a function that has no peak inside the region.

        Args:
            function: from parameters, shape (m, 2), to values, shape (m, q).
            level: between 0 and 1.

        Returns:
            Two arrays of shape (q,).
        """
        values = function(np.concatenate([self.estimate[None, :], self.edge(level)]))
        return values.min(axis=0), values.max(axis=0)

    def edge(self, level: float = 0.95) -> Floats:
        """Parameters all around the region, shape (96, 2); searched once for a level."""
        if level not in self._edges:
            self._edges[level] = self._search(level)
        return self._edges[level]

    def _search(self, level: float) -> Floats:
        freedom = self.n_problems - 1
        t = student_quantile((1 + _level(level)) / 2, freedom)
        goal = math.sqrt(self.n_problems * math.log1p(t * t / freedom))
        angle = np.linspace(0, 2 * math.pi, _DIRECTIONS, endpoint=False)
        ray = np.column_stack([np.cos(angle), np.sin(angle)]) @ self._axes(goal).T
        most = np.min(np.maximum(self.bound - np.sign(ray) * self.estimate, 0) / np.maximum(np.abs(ray), 1e-12), axis=1)
        top = float(self.log_likelihood(self.estimate[None, :])[0])

        def excess(radius: Floats) -> Floats:
            """Root of the likelihood ratio, nearly linear in the radius, less what is allowed."""
            fall = top - self.log_likelihood(self.estimate + radius[:, None] * ray)
            return np.asarray(np.sqrt(np.maximum(2 * fall, 0.0)) - goal)

        low, high = np.zeros(_DIRECTIONS), np.minimum(goal, most)
        at_low, at_high = np.full(_DIRECTIONS, -goal), excess(high)
        while np.any(inside := (at_high < 0) & (high < most)):
            low, at_low = np.where(inside, high, low), np.where(inside, at_high, at_low)
            high = np.where(inside, np.minimum(2 * high, most), high)
            at_high = excess(high)
        crossed = at_high > 0
        radius = high
        for _ in range(60):  # the Illinois form of false position
            radius = np.where(crossed, low - at_low * (high - low) / np.where(crossed, at_high - at_low, 1.0), high)
            at = excess(radius)
            if np.all(~crossed | (np.abs(at) < 1e-7)):
                break
            above = at > 0
            at_low, at_high = np.where(above, at_low / 2, at), np.where(above, at, at_high / 2)
            low, high = np.where(above, low, radius), np.where(above, radius, high)
        return np.asarray(self.estimate + radius[:, None] * ray)

    def _axes(self, goal: float) -> Floats:
        """Columns along which a step of 1 costs alike; none so long that it would pass the bound."""
        around = _STEP * np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
        f = self.log_likelihood(self.estimate + around).reshape(3, 3) / _STEP**2
        first, second = f[2, 1] - 2 * f[1, 1] + f[0, 1], f[1, 2] - 2 * f[1, 1] + f[1, 0]
        cross = (f[2, 2] - f[2, 0] - f[0, 2] + f[0, 0]) / 4
        curvature, axes = np.linalg.eigh(-np.array([[first, cross], [cross, second]]))
        return np.asarray(axes / np.sqrt(np.maximum(curvature, (goal / self.bound) ** 2)))
