"""What every fitted law can do: quality for a budget, budget for a quality, when to stop, and how sure it is."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ponder.errors import LawFitError, ParameterError

FAR = 10.0
"""Predictions beyond this many times the largest fitted compute come with a warning."""


class Forecast(NamedTuple):
    """Quality at one amount of compute.

    Attributes:
        value: what the law says.
        low: lower end of the interval; NaN if the law does not say how sure it is.
        high: upper end.
        extrapolated: whether the compute lies outside what was fitted.
    """

    value: float
    low: float
    high: float
    extrapolated: bool


class Diagnostics(NamedTuple):
    """How well a law describes the points it was fitted to.

    Attributes:
        r2: share of the variance of the points that the law explains; below 0 if it does worse than their mean.
        max_error: largest distance between a point and the law.
        aicc: corrected Akaike criterion, to compare laws on the same points; infinite for too few of them.
        n_points: points of the fit.
        low: smallest compute of the fit.
        high: largest compute of the fit.
    """

    r2: float
    max_error: float
    aicc: float
    n_points: int
    low: float
    high: float


class Law(ABC):
    """A curve of quality against compute, fitted to data.

    A subclass has a classmethod `fit(...)`, and a `formula` for people. Compute is k, the number of draws,
    unless the subclass says otherwise.
    """

    formula: str = ""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, float]:
        """The fitted numbers by name."""

    @abstractmethod
    def predict(self, k: ArrayLike) -> Any:
        """Quality at compute k: a float for a number, an array for an array."""

    @abstractmethod
    def inverse(self, quality: float) -> float:
        """Compute at which the law reaches a quality; infinite if it never does."""

    @abstractmethod
    def predict_interval(self, k: ArrayLike, level: float = 0.95) -> tuple[Any, Any]:
        """Lower and upper end of an interval around `predict(k)`.

        Raises:
            ponder.errors.LawFitError: the law was fitted to a curve, which does not say how sure it is.
        """

    @abstractmethod
    def parameter_interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper end of an interval around a parameter."""

    @property
    @abstractmethod
    def diagnostics(self) -> Diagnostics | None:
        """How well the law describes what it was fitted to; None if its parameters were given."""

    @property
    def limit(self) -> float:
        """Quality as compute grows without end."""
        return 1.0

    def forecast(self, k: float, level: float = 0.95) -> Forecast:
        """Value, interval and whether it is an extrapolation, in one."""
        value = float(self.predict(k))
        try:
            low, high = self.predict_interval(k, level)
        except LawFitError:
            low = high = math.nan
        seen = self.diagnostics
        return Forecast(value, float(low), float(high), seen is not None and not seen.low <= k <= seen.high)

    def reach(self, share: float = 0.95) -> float:
        """Compute at which the law reaches this share of its limit; infinite if only there."""
        return self.inverse(share * self.limit)

    def gain(self, k: float) -> float:
        """What the unit after k brings: quality at k + 1 less quality at k."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # far out is where saturation lies
            return float(self.predict(k + 1)) - (float(self.predict(k)) if k > 0 else self.start)

    @property
    def start(self) -> float:
        """Quality with no compute at all."""
        return 0.0

    @property
    def steepest(self) -> float:
        """Where a unit brings most; beyond it gains only fall."""
        return 0.0

    def saturation(self, epsilon: float = 0.01) -> float:
        """The smallest whole k ≥ 0 from which on no further unit brings more than epsilon.

        Args:
            epsilon: the least gain in quality that a unit of compute is worth, above 0.

        Returns:
            A whole number, found by bisection of `gain`; infinite if it lies beyond 1e15.

        Raises:
            ParameterError: epsilon is not above 0.
        """
        check_epsilon(self, epsilon)
        low = float(math.floor(self.steepest))
        if self.gain(low) <= epsilon and self.gain(low + 1) <= epsilon:
            return 0.0
        high = max(1.0, 2 * low)
        while self.gain(high) > epsilon:
            low, high = high, 2 * high
            if high > 1e15:
                return math.inf
        while high - low > 1:
            middle = float(math.floor((low + high) / 2))
            if self.gain(middle) > epsilon:
                low = middle
            else:
                high = middle
        return high


def check_epsilon(owner: object, epsilon: float) -> None:
    """Refuse a threshold at which no law ever saturates."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ParameterError(
            owner, "epsilon", epsilon, allowed="finite and above 0", hint="A gain of exactly zero is never reached"
        )


def warn_far(k: float, largest: float) -> None:
    """Say that a prediction lies far beyond the data."""
    if k > FAR * largest * (1 + 1e-9):
        warnings.warn(
            f"k={k:g} is more than {FAR:g} times the largest fitted k={largest:g}: the law is a guess there",
            stacklevel=4,
        )


def diagnose(k: ArrayLike, measured: ArrayLike, predicted: ArrayLike, parameters: int) -> Diagnostics:
    """Compare a law with its points.

    AICc counts one observation per doubling of k, since neighbouring points of one curve share nearly all draws.
    """
    x, y = np.asarray(k, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    residual = y - np.asarray(predicted, dtype=np.float64)
    rss, total = float(residual @ residual), float(((y - y.mean()) ** 2).sum())
    low, high = float(x.min()), float(x.max())
    seen = min(float(x.size), 1 + math.log2(high / low)) if low > 0 else float(x.size)
    return Diagnostics(
        1 - rss / total if total > 0 else math.nan, float(np.abs(residual).max()), aicc(rss, seen, parameters),
        x.size, low, high,
    )  # fmt: skip


def aicc(rss: float, n: float, parameters: int) -> float:
    """Corrected Akaike criterion of Gaussian residuals; infinite when n is too small for it."""
    p = parameters + 1
    if n <= p + 1:
        return math.inf
    return n * math.log(max(rss, n * 1e-18) / n) + 2 * p * (1 + (p + 1) / (n - p - 1))


def like(k: ArrayLike, values: Any) -> Any:
    """Give values as a float if k is one number, else as an array."""
    return float(np.asarray(values).reshape(())) if np.ndim(k) == 0 else np.asarray(values)
