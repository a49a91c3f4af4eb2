"""Two Weibull distributions mixed, fitted to the path probabilities of many problems at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ponder.core.pool import Bools, Floats, Ints

Starts = Literal["published", "several"]

_START = (0.5, 1.0, 1.0, 1.5, 2.0)
"""Of (w, k1, l1, k2, l2), as released."""
_QUANTILES = (0.25, 0.5, 0.75)
"""Where the other starts split the values into a low and a high part."""
_SMALLEST_W = math.log(0.2 / 0.8)
_SMALLEST = math.log(0.01)
_LARGEST_SHAPE = math.log(200.0)
"""Repeated values would drive a shape to infinity, so shapes end here."""
_LOW = np.array([_SMALLEST_W, _SMALLEST, _SMALLEST, _SMALLEST, _SMALLEST])
_HIGH = np.array([-_SMALLEST_W, _LARGEST_SHAPE, np.inf, _LARGEST_SHAPE, np.inf])
_ROUNDS = 10
"""Of expectation-maximisation, before the Newton steps."""
_STEPS = 200
_GAIN = 1e-10
"""Nats per value; a problem that a Newton step promises no more than this has converged."""
_SUMMARY = 128
"""Points that stand for more values than this until the last Newton steps, which see every value."""
_BLOCK = 1 << 15
"""Values worked on at once: arrays of this size stay in the processor's cache, and memory stays small."""
_TINY = 1e-300
_SMALLEST_VALUE = 1e-12


@dataclass(frozen=True)
class WeibullMixtures:
    """`w · Weibull(high_shape, high_scale) + (1 - w) · Weibull(low_shape, low_scale)`, one for each of R problems.

    The high component is the one with the larger mean. Every array has shape (R,).

    Attributes:
        w: share of the high component, in [0.2, 0.8].
        high_shape: in [0.01, 200], as `low_shape`.
        high_scale: at least 0.01, as `low_scale`.
        low_shape: see `high_shape`.
        low_scale: see `high_scale`.
        log_likelihood: mean over the values, in nats.
        fitted: False where no finite likelihood was found, or the steps did not converge.
    """

    w: Floats
    high_shape: Floats
    high_scale: Floats
    low_shape: Floats
    low_scale: Floats
    log_likelihood: Floats
    fitted: Bools

    def posterior_high(self, x: Floats) -> Floats:
        """Probability that each value comes from the high component; by the nearer mean where both vanish.

        Args:
            x: shape (R, N), at least 0.
        """
        log_x = np.log(np.maximum(x, _SMALLEST_VALUE))
        high = np.log(self.w)[:, None] + _log_density(log_x, self.high_shape[:, None], self.high_scale[:, None])
        low = np.log1p(-self.w)[:, None] + _log_density(log_x, self.low_shape[:, None], self.low_scale[:, None])
        means = self.means
        nearer = np.abs(x - means[0][:, None]) <= np.abs(x - means[1][:, None])
        vanished = np.maximum(high, low) <= math.log(_TINY)
        return np.where(vanished, nearer.astype(float), _logistic(high - low))

    @property
    def means(self) -> tuple[Floats, Floats]:
        """Means of the high and the low component."""
        return _mean(self.high_shape, self.high_scale), _mean(self.low_shape, self.low_scale)

    @property
    def separation(self) -> Floats:
        """Difference of the means in pooled standard deviations; infinite if neither component varies."""
        high, low = self.means
        variance = self.w * _variance(self.high_shape, self.high_scale)
        variance += (1.0 - self.w) * _variance(self.low_shape, self.low_scale)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(variance > 0, (high - low) / np.sqrt(variance), np.inf)


def fit_weibull_mixtures(x: Floats, where: Bools | None = None, starts: Starts = "published") -> WeibullMixtures:
    """The mixture of highest likelihood that can be climbed to, for each row.

    Rounds of expectation-maximisation find the hill; Newton steps with exact derivatives, which are only taken
    where the likelihood rises, find its top. Rows stop on their own, so a row's fit does not depend on the others.

    Args:
        x: shape (R, N), in (0, 1].
        where: which values count, shape (R, N), two or more in each row; None means all.
        starts: `published` climbs from the released start; `several` also from splits at the quartiles, and
            keeps the highest top.

    Source: start and bounds of the released code of Zhou et al. 2025 (RPC), which climbs by L-BFGS-B.
    """
    counted = np.ones(x.shape, dtype=bool) if where is None else where
    step = max(1, _BLOCK // max(x.shape[1], 1))
    found = [
        _fit(x[at : at + step], counted[at : at + step], starts) for at in range(0, max(x.shape[0], 1), step)
    ]  # fmt: skip
    theta, value, converged = (np.concatenate(parts) for parts in zip(*found, strict=True))
    w = _logistic(theta[:, 0])
    k1, l1, k2, l2 = np.exp(theta[:, 1:]).T
    swap = _mean(k1, l1) < _mean(k2, l2)
    return WeibullMixtures(
        np.where(swap, 1.0 - w, w), np.where(swap, k2, k1), np.where(swap, l2, l1), np.where(swap, k1, k2),
        np.where(swap, l1, l2), value, converged & np.isfinite(value) & np.isfinite(theta).all(axis=1),
    )  # fmt: skip


def _fit(x: Floats, where: Bools, starts: Starts) -> tuple[Floats, Floats, Bools]:
    """Parameters (R, 5) as (logit w, log k1, log l1, log k2, log l2), mean log-likelihood, and who converged."""
    n = where.sum(axis=1)
    # Sorted, so that the order of the samples has no influence at all.
    y = np.sort(np.where(where, np.log(np.maximum(x, _SMALLEST_VALUE)), np.inf), axis=1)
    counted = np.arange(x.shape[1]) < n[:, None]
    y = np.where(counted, y, y[:, :1])
    points, weights = _summarised(y, counted, n)
    tops = [
        _climb(points, weights, _expectation_maximisation(points, weights, start))
        for start in _start_points(points, weights, starts)
    ]
    best = np.argmax([top.value for top in tops], axis=0)
    rows = np.arange(len(x))
    theta, value, converged = (np.stack(parts)[best, rows] for parts in zip(*tops, strict=True))
    large = np.flatnonzero(n > _SUMMARY)
    if large.size:
        theta[large], value[large], converged[large] = _climb(y[large], counted[large] / n[large, None], theta[large])
    return theta, value, converged


def _summarised(y: Floats, counted: Bools, n: Ints) -> tuple[Floats, Floats]:
    """Up to `_SUMMARY` points a row with weights that sum to 1: means of neighbours, or the values if they are few."""
    rows, samples = y.shape
    width = min(samples, _SUMMARY)
    ranks = np.broadcast_to(np.arange(samples), y.shape)
    bins = np.where(n[:, None] > width, ranks * width // np.maximum(n, 1)[:, None], ranks)
    cells = (np.where(counted, bins, width) + np.arange(rows)[:, None] * (width + 1)).ravel()
    sizes = np.bincount(cells, minlength=rows * (width + 1)).reshape(rows, width + 1)[:, :width]
    sums = np.bincount(cells, weights=y.ravel(), minlength=rows * (width + 1)).reshape(rows, width + 1)[:, :width]
    points = np.where(sizes > 0, sums / np.maximum(sizes, 1), y[:, :1])
    return points, sizes / n[:, None]


def _start_points(y: Floats, weights: Floats, starts: Starts) -> list[Floats]:
    w, k1, l1, k2, l2 = _START
    published = np.array([math.log(w / (1.0 - w)), *np.log([k1, l1, k2, l2])])
    out = [np.tile(published, (len(y), 1))]
    below = np.cumsum(weights, axis=1) - weights / 2
    for quantile in _QUANTILES if starts == "several" else ():
        theta = np.empty((len(y), 5))
        low = below < quantile
        share = np.clip((weights * ~low).sum(axis=1), 0.2, 0.8)
        theta[:, 0] = np.log(share / (1.0 - share))
        for at, part in ((1, ~low), (3, low)):
            mass = weights * part
            mass = mass / np.maximum(mass.sum(axis=1, keepdims=True), _TINY)
            mean = (mass * y).sum(axis=1)
            spread = np.sqrt((mass * (y - mean[:, None]) ** 2).sum(axis=1)) + 1e-3
            # The logarithm of a Weibull variable has standard deviation π / (k √6) and mean log l - γ / k.
            theta[:, at] = np.log(math.pi / (spread * math.sqrt(6.0)))
            theta[:, at + 1] = mean + np.euler_gamma * np.exp(-theta[:, at])
        out.append(np.clip(theta, _LOW, _HIGH))
    return out


class _At(NamedTuple):
    """What the log-likelihood is made of at some parameters, each of shape (R, N).

    With u = k (log x - log l), the log-density is log k + u - exp u - log x.
    """

    u1: Floats
    e1: Floats
    u2: Floats
    e2: Floats
    r1: Floats
    """Probability that a value comes from the first component."""
    r2: Floats
    value: Floats
    """Mean log-likelihood, shape (R,)."""

    def rows(self, keep: Bools) -> _At:
        return _At(*(part[keep] for part in self))

    def but(self, other: _At, ok: Bools) -> _At:
        """The other where `ok`."""
        wide = ok[:, None]
        return _At(*(np.where(wide if a.ndim == 2 else ok, b, a) for a, b in zip(self, other, strict=True)))


def _evaluate(y: Floats, weights: Floats, theta: Floats) -> _At:
    t = theta[:, :, None]
    u1 = np.clip(np.exp(t[:, 1]) * (y - t[:, 2]), -700.0, 40.0)
    u2 = np.clip(np.exp(t[:, 3]) * (y - t[:, 4]), -700.0, 40.0)
    e1, e2 = np.exp(u1), np.exp(u2)
    log1 = u1 - e1 + (t[:, 1] - np.logaddexp(0.0, -t[:, 0]))
    log2 = u2 - e2 + (t[:, 3] - np.logaddexp(0.0, t[:, 0]))
    gap = log1 - log2
    other = np.exp(-np.abs(gap))
    larger = 1.0 / (1.0 + other)
    smaller = other * larger
    first = gap > 0
    value = np.where(first, log1, log2) - np.log(larger) - y
    return _At(u1, e1, u2, e2, np.where(first, larger, smaller), np.where(first, smaller, larger), _dot(weights, value))


def _expectation_maximisation(y: Floats, weights: Floats, start: Floats) -> Floats:
    """Some rounds, each with one Newton step for the shapes."""
    theta = start.copy()
    top = y.max(axis=1, keepdims=True)
    for _ in range(_ROUNDS):
        at = _evaluate(y, weights, theta)
        share = np.clip(_dot(weights, at.r1), 0.2, 0.8)
        theta[:, 0] = np.log(share / (1.0 - share))
        for i, part, power in ((1, at.r1, at.e1), (3, at.r2, at.e2)):
            mass = weights * part
            total = np.maximum(mass.sum(axis=1), _TINY)
            tilted = mass * power
            tilted = tilted / np.maximum(tilted.sum(axis=1, keepdims=True), _TINY)
            mean = _dot(tilted, y)
            variance = np.maximum(_dot(tilted, y * y) - mean * mean, 0.0)
            inverse = np.exp(-theta[:, i])
            slope = mean - inverse - _dot(mass, y) / total
            step = slope / (variance / inverse + inverse)
            theta[:, i] = np.clip(theta[:, i] - np.clip(step, -1.0, 1.0), _SMALLEST, _LARGEST_SHAPE)
            shape = np.exp(theta[:, i])
            lifted = np.exp(np.maximum(shape[:, None] * (y - top), -700.0))
            scale = np.log(np.maximum(_dot(mass, lifted) / total, _TINY)) / shape + top[:, 0]
            theta[:, i + 1] = np.maximum(scale, _SMALLEST)
    return theta


class _Top(NamedTuple):
    theta: Floats
    value: Floats
    converged: Bools


def _climb(y: Floats, weights: Floats, start: Floats) -> _Top:
    """Newton steps within the bounds, each taken only if the likelihood rises."""
    theta = np.clip(start, _LOW, _HIGH)
    live = np.arange(len(theta))  # rows that have converged leave, so slow ones do not hold up the rest
    at = _evaluate(y, weights, theta)
    value = at.value.copy()
    damping = np.full(len(theta), 1e-3)
    converged = np.zeros(len(theta), dtype=bool)
    for _ in range(_STEPS):
        here = theta[live]
        gradient, curvature = _derivatives(weights, here, at)
        # A parameter at its bound that would leave it stays there.
        fixed = ((here <= _LOW) & (gradient < 0)) | ((here >= _HIGH) & (gradient > 0))
        gradient = np.where(fixed, 0.0, gradient)
        curvature = np.where(fixed[:, :, None] | fixed[:, None, :], 0.0, curvature)
        values, vectors = np.linalg.eigh(curvature)
        # Downward or upward curvature, the step goes uphill; damping shortens it where the last one failed.
        size = np.maximum(np.abs(values), 1e-8) + damping[live, None]
        step = np.einsum("rij,rj->ri", vectors, np.einsum("rji,rj->ri", vectors, gradient) / size)
        gain = np.einsum("ri,ri->r", step, gradient)
        trial = np.clip(here + np.clip(step, -1.5, 1.5), _LOW, _HIGH)
        there = _evaluate(y, weights, trial)
        better = there.value > at.value
        theta[live[better]] = trial[better]
        value[live[better]] = there.value[better]
        damping[live] = np.where(better, damping[live] / 10.0, np.maximum(damping[live], 1e-4) * 10.0)
        at = there if better.all() else at.but(there, better)
        done = (gain < _GAIN) | (~better & (damping[live] > 1e6))
        converged[live[done]] = True
        if done.any():
            live, y, weights, at = live[~done], y[~done], weights[~done], at.rows(~done)
        if not live.size:
            break
    return _Top(theta, value, converged)


def _derivatives(weights: Floats, theta: Floats, at: _At) -> tuple[Floats, Floats]:
    """Gradient (R, 5) and matrix of second derivatives (R, 5, 5) of the mean log-likelihood."""
    u1, e1, u2, e2, r1, r2, _ = at
    k1, k2 = np.exp(theta[:, 1]), np.exp(theta[:, 3])
    features = np.empty((len(theta), 5, u1.shape[1]))
    features[:, 0] = 1.0
    np.multiply(u1, 1.0 - e1, out=features[:, 1])
    features[:, 1] += 1.0
    np.multiply(-k1[:, None], 1.0 - e1, out=features[:, 2])
    np.multiply(u2, e2 - 1.0, out=features[:, 3])
    features[:, 3] -= 1.0
    np.multiply(k2[:, None], 1.0 - e2, out=features[:, 4])
    first, second = weights * r1, weights * r2
    both = features * (first * r2)[:, None]
    matrix = np.matmul(both, features.transpose(0, 2, 1))
    gradient = np.empty((len(theta), 5))
    w = _logistic(theta[:, 0])
    gradient[:, 0] = first.sum(axis=1) - w
    gradient[:, 1:3] = np.matmul(features[:, 1:3], first[:, :, None])[:, :, 0]
    gradient[:, 3:5] = -np.matmul(features[:, 3:5], second[:, :, None])[:, :, 0]
    matrix[:, 0, 0] -= w * (1.0 - w)
    for i, mass, u, e, k in ((1, first, u1, e1, k1), (3, second, u2, e2, k2)):
        tilted, moved = mass * e, mass * u
        t0, t1 = tilted.sum(axis=1), _dot(tilted, u)
        matrix[:, i, i] += moved.sum(axis=1) - t1 - _dot(tilted * u, u)
        matrix[:, i + 1, i + 1] -= k * k * t0
        mixed = k * (t1 - mass.sum(axis=1) + t0)
        matrix[:, i, i + 1] += mixed
        matrix[:, i + 1, i] += mixed
    return gradient, matrix


def _dot(a: Floats, b: Floats) -> Floats:
    """Sum of products over each row."""
    return np.asarray(np.einsum("rn,rn->r", a, b))


def _logistic(x: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


def _log_density(log_x: Floats, shape: Floats, scale: Floats) -> Floats:
    u = shape * (log_x - np.log(scale))
    return np.asarray(np.log(shape) + u - np.exp(np.minimum(u, 690.0)) - log_x)


def _mean(shape: Floats, scale: Floats) -> Floats:
    return scale * np.exp(_log_gamma(1.0 + 1.0 / shape))


def _variance(shape: Floats, scale: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        second = scale**2 * np.exp(_log_gamma(1.0 + 2.0 / shape))
        return np.where(np.isinf(second), np.inf, np.maximum(second - _mean(shape, scale) ** 2, 0.0))


def _log_gamma(x: Floats) -> Floats:
    return np.fromiter(map(math.lgamma, x.tolist()), dtype=np.float64, count=len(x))
