"""Gaussian mixtures as exact diffusion models: scores, posteriors, reverse kernels and tilted targets in closed form.

With x = a·x₀ + s·ε and x₀ from Σ w_k N(μ_k, v_k I) everything that a sampler needs is known, so that a sampler's error
can be measured against the truth instead of another sampler. A reward (`Linear`, `Quadratic`, `Bumps`) tilts the
mixture into another mixture, q(x)·exp(r(x)) / Z, whose weights, modes and normaliser are known too, and with them the
soft value of every noisy state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ponder.diffusion.measures import BANDWIDTHS
from ponder.diffusion.schedule import Floats
from ponder.errors import ParameterError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mixture:
    """Σ w_k N(μ_k, v_k I) in d dimensions.

    Args:
        weights: (K,), > 0; normalised here.
        means: (K, d).
        variances: (K,), > 0.
    """

    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    variances: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.weights) == len(self.means) == len(self.variances) >= 1:
            sizes = (len(self.weights), len(self.means), len(self.variances))
            raise ParameterError("mixture", "weights/means/variances", sizes, allowed="equal lengths ≥ 1")
        if min(self.variances) <= 0 or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ParameterError("mixture", "weights/variances", (self.weights, self.variances), allowed="numbers > 0")

    @classmethod
    def of(cls, weights: Floats, means: Floats, variances: Floats) -> Mixture:
        """From arrays (K,), (K, d), (K,)."""
        rows = tuple(tuple(row) for row in np.asarray(means, dtype=float).tolist())
        return cls(tuple(np.asarray(weights).tolist()), rows, tuple(np.asarray(variances).tolist()))

    @cached_property
    def arrays(self) -> tuple[Floats, Floats, Floats]:
        """Logarithms of the normalised weights (K,), means (K, d), variances (K,)."""
        w = np.asarray(self.weights, dtype=float)
        with np.errstate(divide="ignore"):
            return np.log(w / w.sum()), np.asarray(self.means, dtype=float), np.asarray(self.variances, dtype=float)

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.means[0])

    @property
    def mean(self) -> Floats:
        """(d,)."""
        log_w, m, _ = self.arrays
        return np.asarray(np.exp(log_w) @ m)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """(n, d) exact draws."""
        log_w, m, v = self.arrays
        which = rng.choice(len(v), size=n, p=np.exp(log_w))
        return m[which] + np.sqrt(v[which])[:, None] * rng.standard_normal((n, self.dimension))

    def from_noise(self, noise: Floats) -> Floats:
        """(n, d) exact draws from standard normal numbers (n, d + 1): the last one chooses the component."""
        _, m, v = self.arrays
        which = self.chosen(noise)
        return np.asarray(m[which] + np.sqrt(v[which])[:, None] * noise[:, :-1])

    def chosen(self, noise: Floats) -> Ints:
        """(n,) the components that the last of the numbers (n, d + 1) choose."""
        return _chosen(np.exp(self.arrays[0])[None].repeat(len(noise), 0), noise[:, -1])

    def log_density(self, x: Floats) -> Floats:
        """(n,) for x (n, d)."""
        return _logsumexp(self._log_joint(x, np.ones(len(x)), np.zeros(len(x))))

    def noised(self, a: float, s: float) -> Mixture:
        """The distribution of a·x₀ + s·ε."""
        log_w, m, v = self.arrays
        return Mixture.of(np.exp(log_w), a * m, a * a * v + s * s)

    def score(self, x: Floats, a: Floats, s: Floats) -> Floats:
        """∇ log density of noisy states x (n, d) at levels a, s (n,)."""
        _, m, v = self.arrays
        r = self.responsibilities(x, a, s) / (np.square(a)[:, None] * v + np.square(s)[:, None])
        return np.asarray(a[:, None] * (r @ m) - r.sum(axis=1, keepdims=True) * x)

    def responsibilities(self, x: Floats, a: Floats, s: Floats) -> Floats:
        """(n, K): which component each noisy state comes from."""
        joint = self._log_joint(x, a, s)
        return np.asarray(np.exp(joint - _logsumexp(joint)[:, None]))

    def posterior(self, x: Floats, a: Floats, s: Floats) -> tuple[Floats, Floats, Floats]:
        """x₀ given noisy states: log-weights (n, K), means (n, K, d), variances (n, K). s must be > 0."""
        _, m, v = self.arrays
        joint = self._log_joint(x, a, s)
        u = 1.0 / (1.0 / v + np.square(a / s)[:, None])
        means = u[..., None] * (m / v[:, None] + (a / s**2)[:, None, None] * x[:, None])
        return joint - _logsumexp(joint)[:, None], means, u

    def kernel(self, x: Floats, a: Floats, s: Floats, a2: Floats, s2: Floats, noise: Floats) -> Floats:
        """An exact draw of the state at (a', s') given the one at (a, s); noise (n, d + 1), standard normal."""
        _, m, v = self.arrays
        ratio = (a / a2)[:, None]
        between = np.square(s)[:, None] - np.square(ratio * s2[:, None])
        p = np.square(a2)[:, None] * v + np.square(s2)[:, None]
        variance = 1.0 / (1.0 / p + ratio**2 / between)
        rows, which = np.arange(len(x)), _chosen(self.responsibilities(x, a, s), noise[:, -1])
        var = variance[rows, which][:, None]
        prior = a2[:, None] * m[which] / p[rows, which][:, None]
        return np.asarray(var * (prior + ratio * x / between) + np.sqrt(var) * noise[:, :-1])

    def product(self, other: Mixture) -> tuple[Mixture, float]:
        """The normalised product of the two densities, and the logarithm of its normaliser."""
        (log_w, m, v), (log_w2, m2, v2) = self.arrays, other.arrays
        total = v[:, None] + v2[None]
        distance = np.square(m[:, None] - m2[None]).sum(axis=-1)
        log_c = log_w[:, None] + log_w2[None] - 0.5 * (distance / total + self.dimension * np.log(2 * math.pi * total))
        joint = v[:, None] * v2[None] / total
        means = joint[..., None] * ((m / v[:, None])[:, None] + (m2 / v2[:, None])[None])
        log_z = float(_logsumexp(log_c.reshape(1, -1))[0])
        return Mixture.of(np.exp(log_c - log_z).ravel(), means.reshape(-1, self.dimension), joint.ravel()), log_z

    def power(self, n: int) -> Mixture:
        """The normalised n-th power of the density, n ≥ 1; K ** n components."""
        found = self
        for _ in range(n - 1):
            found = found.product(self)[0]
        return found

    def masses(self, x: Floats, weights: Floats | None = None) -> Floats:
        """(K,) share of points (n, d) whose nearest mean is each mode's."""
        _, m, _ = self.arrays
        nearest = np.square(x[:, None] - m[None]).sum(axis=-1).argmin(axis=1)
        found = np.bincount(nearest, weights, minlength=len(m)).astype(float)
        return np.asarray(found / found.sum())

    def mmd_squared(self, x: Floats, weights: Floats | None = None) -> float:
        """Squared maximum mean discrepancy of weighted points (n, d) from the mixture, ≥ 0, in closed form.

        The mean over the kernels of `ponder.diffusion.measures`. Unlike the estimate there it is the distance of the
        points themselves, whatever made them: n exact draws are about 1 / n times the mean of 1 - k away.
        """
        log_w, m, v = self.arrays
        shares, w = np.exp(log_w), np.ones(len(x)) if weights is None else np.asarray(weights, dtype=float)
        w, total = w / w.sum(), 0.0
        own, to_modes, between = (np.square(p[:, None] - q[None]).sum(axis=-1) for p, q in ((x, x), (x, m), (m, m)))
        for h in BANDWIDTHS:

            def expected(distance: Floats, variance: Floats, h: float = h) -> Floats:
                spread = h * h + variance
                return np.asarray((h * h / spread) ** (self.dimension / 2) * np.exp(-0.5 * distance / spread))

            cross, pairs = expected(to_modes, v) @ shares, expected(between, v[:, None] + v[None])
            total += float(w @ np.exp(-0.5 * own / (h * h)) @ w - 2.0 * w @ cross + shares @ pairs @ shares)
        return total / len(BANDWIDTHS)

    def _log_joint(self, x: Floats, a: Floats, s: Floats) -> Floats:
        log_w, m, v = self.arrays
        p = np.square(a)[:, None] * v + np.square(s)[:, None]
        distance = np.square(x[:, None] - a[:, None, None] * m[None]).sum(axis=-1)
        return np.asarray(log_w - 0.5 * (distance / p + self.dimension * np.log(2 * math.pi * p)))


class Reward(Protocol):
    """A reward r under which a Gaussian stays a Gaussian, or becomes several."""

    def __call__(self, x: Floats) -> Floats:
        """(n,) rewards of x (n, d)."""

    def tilt(self, means: Floats, variances: Floats) -> list[tuple[Floats, Floats, Floats]]:
        """For components (…, K, d), (…, K): the pieces of N·exp(r), each (log-factor, mean, variance)."""


@dataclass(frozen=True)
class Linear:
    """r(x) = c · x."""

    c: tuple[float, ...]

    def __call__(self, x: Floats) -> Floats:
        """Rewards."""
        return np.asarray(x @ np.asarray(self.c))

    def tilt(self, means: Floats, variances: Floats) -> list[tuple[Floats, Floats, Floats]]:
        """One piece."""
        c = np.asarray(self.c)
        return [(means @ c + 0.5 * variances * (c @ c), means + variances[..., None] * c, variances)]


@dataclass(frozen=True)
class Quadratic:
    """r(x) = -½ κ ‖x - b‖²."""

    kappa: float
    b: tuple[float, ...]

    def __call__(self, x: Floats) -> Floats:
        """Rewards."""
        return np.asarray(-0.5 * self.kappa * np.square(x - np.asarray(self.b)).sum(axis=-1))

    def tilt(self, means: Floats, variances: Floats) -> list[tuple[Floats, Floats, Floats]]:
        """One piece."""
        k, b = self.kappa, np.asarray(self.b)
        grown = 1.0 + k * variances
        factor = -0.5 * means.shape[-1] * np.log(grown) - 0.5 * k * np.square(means - b).sum(axis=-1) / grown
        return [(factor, (means + (k * variances)[..., None] * b) / grown[..., None], variances / grown)]


@dataclass(frozen=True)
class Bumps:
    """r(x) = log(base + Σ_j height_j · exp(-½ κ_j ‖x - b_j‖²)): several modes, some of them lures."""

    base: float
    heights: tuple[float, ...]
    bumps: tuple[Quadratic, ...]

    def __call__(self, x: Floats) -> Floats:
        """Rewards."""
        parts = [np.full(x.shape[:-1], math.log(self.base))]
        parts += [math.log(h) + bump(x) for h, bump in zip(self.heights, self.bumps, strict=True)]
        return _logsumexp(np.stack(parts, axis=-1))

    def tilt(self, means: Floats, variances: Floats) -> list[tuple[Floats, Floats, Floats]]:
        """One piece untouched, and one for each bump."""
        pieces = [(np.full(variances.shape, math.log(self.base)), means, variances)]
        for height, bump in zip(self.heights, self.bumps, strict=True):
            pieces += [(math.log(height) + f, m, v) for f, m, v in bump.tilt(means, variances)]
        return pieces


def tilted(mixture: Mixture, reward: Reward) -> tuple[Mixture, float]:
    """q·exp(r) / Z and log Z."""
    log_w, m, v = mixture.arrays
    pieces = reward.tilt(m, v)
    log_c = np.concatenate([log_w + f for f, _, _ in pieces])
    log_z = float(_logsumexp(log_c[None])[0])
    means, variances = (np.concatenate([piece[i] for piece in pieces]) for i in (1, 2))
    return Mixture.of(np.exp(log_c - log_z), means, variances), log_z


def soft_value(mixture: Mixture, reward: Reward, x: Floats, a: Floats, s: Floats) -> Floats:
    """(n,) log E[exp(r(x₀)) | x]: what an ideal potential knows of noisy states. r(x) itself where s = 0."""
    noisy = s > 0
    out = np.asarray(reward(x / a[:, None]), dtype=float).copy()
    if noisy.any():
        log_r, m, u = mixture.posterior(x[noisy], a[noisy], s[noisy])
        out[noisy] = _logsumexp(np.concatenate([log_r + f for f, _, _ in reward.tilt(m, u)], axis=1))
    return out


def _ring() -> Mixture:
    angles = 2 * math.pi * np.arange(8) / 8
    return Mixture.of(np.ones(8), 4.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1), np.full(8, 0.09))


def _corners(size: float) -> tuple[float, ...]:
    return (size / math.sqrt(16),) * 16


_A = Mixture((0.5, 0.3, 0.2), ((-2.0, 0.0), (2.0, 0.0), (0.0, 2.5)), (0.3, 0.3, 0.2))
_CORNER = 2 * math.sqrt(2)
_DECOY = Bumps(
    0.2,
    (60.0, 30.0, 3000.0),
    (Quadratic(4.0, (4.0, 0.0)), Quadratic(4.0, (-_CORNER, _CORNER)), Quadratic(1.0, (0.0, 0.0))),
)
_SHIFTED = ((-3.0, 0.0), (3.0, 0.0), (0.0, 3.0)), ((-3.0, 1.0), (3.0, -1.0), (0.0, -3.0))

INSTANCES: dict[str, tuple[Mixture, Reward]] = {
    "a": (_A, Linear((0.5, 0.25))),
    "a_quadratic": (_A, Quadratic(1.0, (1.0, 1.0))),
    "ring": (_ring(), Linear((0.5, 0.25))),
    "ring_quadratic": (_ring(), Quadratic(1.0, (3.0, 3.0))),
    "ring_decoy": (_ring(), _DECOY),
    "two_modes": (
        Mixture((0.5, 0.5), (_corners(-3.0), _corners(3.0)), (1.0, 1.0)),
        Quadratic(1.0, _corners(5.0)),
    ),
    "expert_a": (Mixture((0.2, 0.3, 0.5), _SHIFTED[0], (0.3, 0.6, 1.2)), Linear((0.0, 0.0))),
    "expert_b": (Mixture((0.5, 0.25, 0.25), _SHIFTED[1], (0.8, 0.8, 0.8)), Linear((0.0, 0.0))),
}
"""Mixtures with rewards, by the names that `gmm:NAME` takes."""


def _chosen(shares: Floats, normal: Floats) -> Ints:
    """For each row of shares (n, K) the component that a standard normal number (n,) stands for."""
    uniform = np.asarray([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in normal])
    edges = np.cumsum(shares, axis=1)
    return np.asarray(np.minimum((edges < uniform[:, None] * edges[:, -1:]).sum(axis=1), shares.shape[1] - 1))


def _logsumexp(x: Floats) -> Floats:
    """Over the last axis; -inf where everything is."""
    largest = np.max(x, axis=-1, keepdims=True)
    safe = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray((safe + np.log(np.exp(x - safe).sum(axis=-1, keepdims=True)))[..., 0])


def names() -> Sequence[str]:
    """Of the instances."""
    return sorted(INSTANCES)
