"""A power law of the best setting: ln value = c + Σ_s e_s · ln scale_s, fitted to the near-optimal runs of a sweep.

Paper    "Predictable Scale: Part I, Step Law", 2025: how its exponents were found.
Equal    Per group of equal scales the runs within 0.25 % of the least loss are kept; least squares in logarithms.
Differs  A group whose kept runs reach the edge of what was tried is left out, with a warning: its best is not known.
         Each group counts once, by the mean logarithm of its kept values: neighbouring grid points of one plateau are
         not independent observations. Intervals are Student's t of those groups, not a bootstrap of kept rows.
Needs    A sweep: scales, value tried, loss.    Cost: none.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.core.law import Forecast
from ponder.errors import LawFitError, ParameterError
from ponder.laws.intervals import student_quantile

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """A fitted power law of one or more scales.

    Attributes:
        constant: c, so that exp(c) is the value where every scale is 1.
        exponents: by name of the scale.
        low: smallest scale of the fit, by name.
        high: largest.
        r2: share of the variance of ln value that is explained.
        n_groups: groups of the fit.
        covariance: of (c, exponents); None if the numbers were given.
        freedom: degrees of freedom of the intervals.
    """

    constant: float
    exponents: Mapping[str, float]
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)
    r2: float = math.nan
    n_groups: int = 0
    covariance: Floats | None = field(default=None, repr=False, compare=False)
    freedom: int = 0

    @property
    def parameters(self) -> Mapping[str, float]:
        """`constant` and the exponents."""
        return {"constant": self.constant, **self.exponents}

    def predict(self, **scales: float) -> float:
        """Value at the scales, each above 0, by name."""
        return math.exp(float(self._row(scales) @ np.array(list(self.parameters.values()))))

    def forecast(self, level: float = 0.95, **scales: float) -> Forecast:
        """Value, interval of the fitted curve, and whether a scale lies outside the fit."""
        row, value = self._row(scales), self.predict(**scales)
        outside = any(not self.low.get(n, 0.0) <= x <= self.high.get(n, math.inf) for n, x in scales.items())
        if self.covariance is None:
            return Forecast(value, math.nan, math.nan, outside)
        reach = student_quantile(0.5 + level / 2, self.freedom) * math.sqrt(
            max(0.0, float(row @ self.covariance @ row))
        )
        return Forecast(value, value * math.exp(-reach), value * math.exp(reach), outside)

    def parameter_interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Interval of `constant` or an exponent."""
        names = list(self.parameters)
        if name not in names:
            raise ParameterError("power law", "name", name, allowed=f"one of {', '.join(names)}")
        if self.covariance is None:
            raise LawFitError("this power law was given, not fitted: it does not say how sure it is")
        at = names.index(name)
        reach = student_quantile(0.5 + level / 2, self.freedom) * math.sqrt(self.covariance[at, at])
        return self.parameters[name] - reach, self.parameters[name] + reach

    def _row(self, scales: Mapping[str, float]) -> Floats:
        if set(scales) != set(self.exponents):
            raise ParameterError("power law", "scales", sorted(scales), allowed=f"exactly {sorted(self.exponents)}")
        for name, value in scales.items():
            if not (math.isfinite(value) and value > 0):
                raise ParameterError("power law", name, value, allowed="finite and above 0")
        return np.array([1.0, *(math.log(scales[name]) for name in self.exponents)])


def fit_power_law(
    scales: Mapping[str, ArrayLike], value: ArrayLike, loss: ArrayLike | None = None, *, near_optimal: float = 0.0025
) -> PowerLaw:
    """Fit the best value as a power of scales.

    Args:
        scales: by name, one number a run, above 0: for example `params` and `tokens`.
        value: tried in each run, above 0: a learning rate, a batch, a number of draws.
        loss: of each run, above 0; without it every run is kept, which fits a plain power law.
        near_optimal: runs within this share of their group's least loss are kept.

    Warns:
        UserWarning: groups were left out because their best lies at the edge of what was tried.

    Raises:
        ParameterError: lengths differ, or a number is not above 0.
        LawFitError: fewer than parameters + 1 groups, or scales that move together so that exponents are unknown.
    """
    names = list(scales)
    columns = [np.asarray(scales[n], dtype=np.float64) for n in names]
    tried = np.asarray(value, dtype=np.float64)
    losses = np.ones_like(tried) if loss is None else np.asarray(loss, dtype=np.float64)
    for name, column in (*zip(names, columns, strict=True), ("value", tried), ("loss", losses)):
        if column.shape != tried.shape or column.ndim != 1:
            raise ParameterError("fit_power_law", name, column.shape, allowed=f"one number a run, {tried.shape}")
        if not np.all(np.isfinite(column) & (column > 0)):
            raise ParameterError("fit_power_law", name, "not finite or ≤ 0", allowed="finite and above 0")
    if not names or not tried.size:
        raise LawFitError("a power law needs one scale and two runs or more")
    groups, member = np.unique(np.log(np.stack(columns, axis=1)), axis=0, return_inverse=True)
    member = np.ravel(member)
    best, low, high = np.full(len(groups), np.inf), np.full(len(groups), np.inf), np.zeros(len(groups))
    np.minimum.at(best, member, losses)
    np.minimum.at(low, member, tried)
    np.maximum.at(high, member, tried)
    kept = losses <= best[member] * (1 + near_optimal)
    y = np.bincount(member[kept], np.log(tried[kept])) / np.bincount(member[kept])
    if loss is not None:
        edge = np.zeros(len(groups), dtype=bool)
        np.logical_or.at(edge, member[kept], ((tried == low[member]) | (tried == high[member]))[kept])
        if edge.any():
            warnings.warn(
                f"in {int(edge.sum())} of {len(groups)} groups the best lies at the edge of what was tried: left out",
                stacklevel=2,
            )
        groups, y = groups[~edge], y[~edge]
    if len(groups) < len(names) + 2:
        raise LawFitError(
            f"a power law of {len(names)} scales has {len(names) + 1} parameters and needs {len(names) + 2} different "
            f"scales or more with a best inside what was tried; there are {len(groups)}"
        )
    design = np.column_stack([np.ones(len(groups)), groups])
    if np.linalg.matrix_rank(design - [0.0, *groups.mean(axis=0)], tol=1e-9 * len(groups)) < design.shape[1]:
        raise LawFitError(f"the scales {', '.join(names)} move together (or one never moves): vary each on its own")
    theta = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ theta
    freedom = len(groups) - design.shape[1]
    covariance = np.linalg.inv(design.T @ design) * float(residual @ residual) / freedom
    total = float(((y - y.mean()) ** 2).sum())
    return PowerLaw(
        float(theta[0]), dict(zip(names, (float(x) for x in theta[1:]), strict=True)),
        {n: float(c.min()) for n, c in zip(names, columns, strict=True)},
        {n: float(c.max()) for n, c in zip(names, columns, strict=True)},
        1 - float(residual @ residual) / total if total > 0 else math.nan, len(groups), covariance, freedom,
    )  # fmt: skip


def next_sweep(best: float, *, steps: int = 2) -> tuple[float, ...]:
    """Values to try next: the predicted best and `steps` on either side, a factor √2 apart.

    >>> [round(x, 3) for x in next_sweep(1.0, steps=1)]
    [0.707, 1.0, 1.414]
    """
    return tuple(best * 2 ** (i / 2) for i in range(-steps, steps + 1))
