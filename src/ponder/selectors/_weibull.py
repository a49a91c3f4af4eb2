"""Two Weibull distributions mixed, fitted to the path probabilities of one problem."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ponder.errors import MissingExtraError

Floats = npt.NDArray[np.float64]

_START = (0.5, 1.0, 1.0, 1.5, 2.0)
_BOUNDS = ((0.2, 0.8), (0.01, 200.0), (0.01, None), (0.01, 200.0), (0.01, None))
"""Of (w, k1, l1, k2, l2). Repeated values would drive a shape to infinity, so shapes end at 200."""
_TINY = 1e-300


@dataclass(frozen=True)
class WeibullMixture:
    """`w · Weibull(high_shape, high_scale) + (1 - w) · Weibull(low_shape, low_scale)`.

    The high component is the one with the larger mean.
    """

    w: float
    high_shape: float
    high_scale: float
    low_shape: float
    low_scale: float

    def posterior_high(self, x: Floats) -> Floats:
        """Probability that each value comes from the high component; by the nearer mean where both vanish."""
        high = self.w * np.exp(_log_density(x, self.high_shape, self.high_scale)[0])
        low = (1.0 - self.w) * np.exp(_log_density(x, self.low_shape, self.low_scale)[0])
        total = high + low
        nearer = np.abs(x - self.means[0]) <= np.abs(x - self.means[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > _TINY, high / total, nearer.astype(float))

    @property
    def means(self) -> tuple[float, float]:
        """Means of the high and the low component."""
        return _mean(self.high_shape, self.high_scale), _mean(self.low_shape, self.low_scale)

    @property
    def separation(self) -> float:
        """Difference of the means in pooled standard deviations."""
        high, low = self.means
        variance = self.w * _variance(self.high_shape, self.high_scale)
        variance += (1.0 - self.w) * _variance(self.low_shape, self.low_scale)
        return (high - low) / math.sqrt(variance) if variance > 0 else math.inf


def fit_weibull_mixture(x: Floats) -> WeibullMixture | None:
    """The mixture of highest likelihood near the start, by L-BFGS-B; None if the optimiser fails.

    Args:
        x: shape (n,), positive.

    Raises:
        MissingExtraError: scipy is not installed.

    Source: start and bounds of the released code of Zhou et al. 2025 (RPC); the gradient is exact here.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise MissingExtraError("rpc", "scipy", "laws") from error
    x = np.maximum(x, 1e-12)
    log_x = np.log(x)

    def loss(theta: Floats) -> tuple[float, Floats]:
        w, k1, l1, k2, l2 = (float(t) for t in theta)
        log1, dk1, dl1 = _log_density(x, k1, l1, log_x)
        log2, dk2, dl2 = _log_density(x, k2, l2, log_x)
        f1, f2 = np.exp(log1), np.exp(log2)
        density = np.maximum(w * f1 + (1.0 - w) * f2, _TINY)
        r1, r2 = w * f1 / density, (1.0 - w) * f2 / density
        gradient = [((f1 - f2) / density).sum(), (r1 * dk1).sum(), (r1 * dl1).sum(), (r2 * dk2).sum(), (r2 * dl2).sum()]
        return -float(np.log(density).sum()) / len(x), -np.asarray(gradient) / len(x)

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = minimize(loss, np.asarray(_START), jac=True, method="L-BFGS-B", bounds=_BOUNDS)
    if not np.isfinite(found.fun) or not np.isfinite(found.x).all() or found.status == 2:
        return None
    w, k1, l1, k2, l2 = (float(t) for t in found.x)
    if _mean(k1, l1) < _mean(k2, l2):
        w, k1, l1, k2, l2 = 1.0 - w, k2, l2, k1, l1
    return WeibullMixture(w, k1, l1, k2, l2)


def _log_density(x: Floats, shape: float, scale: float, log_x: Floats | None = None) -> tuple[Floats, Floats, Floats]:
    """Log-density (at least log 1e-300) and its derivatives by shape and scale."""
    z = (np.log(np.maximum(x, 1e-12)) if log_x is None else log_x) - math.log(scale)
    power = np.exp(np.minimum(shape * z, 690.0))
    value = math.log(shape) - math.log(scale) + (shape - 1.0) * z - power
    clipped = value <= math.log(_TINY)
    by_shape = np.where(clipped, 0.0, 1.0 / shape + z - power * z)
    by_scale = np.where(clipped, 0.0, shape / scale * (power - 1.0))
    return np.maximum(value, math.log(_TINY)), by_shape, by_scale


def _mean(shape: float, scale: float) -> float:
    return scale * math.exp(math.lgamma(1.0 + 1.0 / shape))


def _variance(shape: float, scale: float) -> float:
    second = scale**2 * math.exp(math.lgamma(1.0 + 2.0 / shape))
    return max(second - _mean(shape, scale) ** 2, 0.0)
