"""Geometric saturation: F(N) = F_max · (1 - (1 - p)^N), and the N* beyond which a further unit is not worth it.

Paper    "Scaling over Scaling: Exploring Test-Time Scaling Plateau in Large Reasoning Models", 2025 (TTSPM).
Equal    One formula for parallel draws (p: a draw is right and selectable) and sequential rounds (p: a round turns
         wrong into right, and right stays right); gain of unit N + 1: F_max · p · (1 - p)^N; N* in closed form.
Differs  N* is the smallest whole N ≥ 0 whose next unit gains at most ε, corrected for rounding by one if needed. The
         single p describes problems of equal difficulty: for a real set `GeometricMixture`, the default of
         `fit_saturation`, integrates p over a fitted Beta distribution. By Jensen's inequality the single-p curve
         through the same data flattens too early, so its N* is too small. Intervals are a BCa bootstrap over problems.
Needs    Counts of right draws (or of rounds survived wrong), or a curve.    Cost: milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.core.law import Diagnostics, Law, check_epsilon, diagnose, like, warn_far
from ponder.errors import LawFitError, ParameterError
from ponder.laws._bootstrap import ProblemBootstrap
from ponder.laws._least_squares import levenberg_marquardt
from ponder.laws.beta_binomial import BetaBinomialLaw
from ponder.laws.intervals import RESAMPLES
from ponder.laws.pass_at_k import log_spaced_k, pass_at_k

Floats = NDArray[np.float64]
Mode = Literal["mixture", "single"]
Unit = Callable[[int], float]


def saturation_point(p: float, f_max: float = 1.0, epsilon: float = 0.01) -> int:
    """N* = max(0, ⌈ln(ε / (F_max p)) / ln(1 - p)⌉): the smallest N whose next unit gains at most ε.

    Args:
        p: chance that one unit succeeds, in [0, 1].
        f_max: the ceiling, in [0, 1].
        epsilon: least gain that a unit is worth, above 0.

    Returns:
        0 if already the first unit gains at most ε (also when p or f_max is 0: nothing is ever gained); 1 if p = 1.

    >>> saturation_point(0.2, 0.9, 0.01)
    13
    """
    check_epsilon("saturation_point", epsilon)
    for name, value in (("p", p), ("f_max", f_max)):
        if not 0 <= value <= 1:
            raise ParameterError("saturation_point", name, value, allowed="in [0, 1]")
    if f_max * p <= epsilon:
        return 0
    if p == 1:
        return 1
    n = max(0, math.ceil(math.log(epsilon / (f_max * p)) / math.log1p(-p)))
    while n > 0 and f_max * p * (1 - p) ** (n - 1) <= epsilon:
        n -= 1
    while f_max * p * (1 - p) ** n > epsilon:
        n += 1
    return n


def economic_epsilon(unit_cost: float, value: float) -> float:
    """The gain at which a unit pays for itself: its cost over the value of a solved problem, in one currency.

    >>> economic_epsilon(unit_cost=500, value=20_000)
    0.025
    """
    for name, given in (("unit_cost", unit_cost), ("value", value)):
        if not (math.isfinite(given) and given > 0):
            raise ParameterError("economic_epsilon", name, given, allowed="finite and above 0")
    return unit_cost / value


def economic_saturation(law: Law, unit_cost: Unit, value: float, *, most: int = 100_000) -> int:
    """First N whose next unit gains less than it costs, for a cost that may change from unit to unit.

    Args:
        law: quality against units.
        unit_cost: cost of unit N + 1 given N, for example growing with the context of a sequential chain.
        value: of a solved problem, in the same currency.
        most: where to give up.

    Raises:
        LawFitError: every unit up to `most` pays for itself.
    """
    economic_epsilon(1.0, value)
    for n in range(most):
        if law.gain(n) * value <= unit_cost(n):
            return n
    raise LawFitError(f"each of the first {most} units gains more than it costs; is the cost in the value's currency?")


@dataclass(frozen=True)
class GeometricSaturation(Law):
    """The law with one p for all problems.

    Build it with `fit` (a curve) or `fit_counts`, or from known numbers.

    Attributes:
        p: chance that a unit succeeds, in [0, 1].
        f_max: the ceiling, in [0, 1].
        n_problems: problems behind the fit.
        bootstrap: of (logit p, logit f_max); None without one.
        diagnostics: the law against its points; None if it was not fitted.

    >>> law = GeometricSaturation(0.2, 0.9)
    >>> round(law.predict(1), 3), law.saturation(0.01), round(law.inverse(0.45), 3)
    (0.18, 13, 3.106)
    """

    p: float
    f_max: float = 1.0
    n_problems: int = 0
    bootstrap: ProblemBootstrap | None = field(default=None, repr=False, compare=False)
    diagnostics: Diagnostics | None = field(default=None, repr=False, compare=False)

    formula = "F(N) = F_max · (1 - (1 - p)^N)"

    def __post_init__(self) -> None:
        for name, value in (("p", self.p), ("f_max", self.f_max)):
            if not 0 <= value <= 1:
                raise ParameterError(self, name, value, allowed="in [0, 1]")

    @classmethod
    def fit(cls, units: ArrayLike, quality: ArrayLike) -> GeometricSaturation:
        """Fit p and F_max to a curve by least squares.

        Args:
            units: N of each point, shape (points,), above 0, all different.
            quality: coverage, or the accuracy of what was selected, in [0, 1].

        Raises:
            ParameterError: shapes differ, N ≤ 0 or repeated, quality outside [0, 1].
            LawFitError: fewer than 3 points, a constant curve, one that falls, or one still so straight that only
                the product F_max · p is known.
        """
        x, y = _checked(units, quality)
        theta = _fit(x, y[None, :])[0]
        p, top = _natural(theta[None, :])[0]
        if p * x.max() < 0.05:
            raise LawFitError(
                f"the curve is still straight at N={x.max():g}: only F_max · p = {p * top:.3g} is known, not both. "
                "Draw more, or use the mixture, which reads p from the counts"
            )
        return cls(float(p), float(top), diagnostics=diagnose(x, y, _curve(theta[None, :], x)[0], 2))

    @classmethod
    def fit_counts(
        cls, n: ArrayLike, c: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
    ) -> GeometricSaturation:
        """Fit to counts of right draws (the unbiased coverage curve); `predict_interval` then works.

        Raises:
            ParameterError: counts that cannot be.
            LawFitError: as in `fit`, or no problems.
        """
        right = np.atleast_1d(np.asarray(c))
        samples = np.broadcast_to(np.asarray(n), right.shape)
        if right.size < 2:
            raise LawFitError(f"GeometricSaturation needs the counts of 2 problems or more; there are {right.size}")
        k = log_spaced_k(int(samples.min()))
        table = np.asarray(pass_at_k(samples[:, None], right[:, None], k[None, :]), dtype=np.float64)
        return cls._fit_table(k.astype(np.float64), table, resamples, seed)

    @classmethod
    def fit_table(
        cls, units: ArrayLike, quality: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
    ) -> GeometricSaturation:
        """Fit to a quality per problem and N, for example what a selector chose; with intervals over problems.

        Args:
            units: N of each column, shape (points,).
            quality: shape (problems, points), in [0, 1].
            resamples: bootstrap samples over problems.
            seed: of the bootstrap.
        """
        table = np.asarray(quality, dtype=np.float64)
        if table.ndim != 2 or len(table) < 2:
            raise LawFitError(
                "GeometricSaturation.fit_table needs 2 rows or more, one a problem, one column for each N"
            )
        return cls._fit_table(np.asarray(units, dtype=np.float64), table, resamples, seed)

    @classmethod
    def _fit_table(cls, x: Floats, table: Floats, resamples: int, seed: int) -> GeometricSaturation:
        law = cls.fit(x, table.mean(axis=0))
        bootstrap = None
        if resamples:
            start = _logits(law.p, law.f_max)
            bootstrap = ProblemBootstrap.of(
                table, lambda curves: _fit(x, curves, start), start, resamples=resamples, seed=seed
            )
        return cls(law.p, law.f_max, len(table), bootstrap, law.diagnostics)

    @property
    def parameters(self) -> Mapping[str, float]:
        """`p` and `f_max`."""
        return {"p": self.p, "f_max": self.f_max}

    @property
    def limit(self) -> float:
        """The ceiling, reached unless p = 0."""
        return self.f_max if self.p > 0 else 0.0

    @property
    def reason(self) -> str:
        """Why nothing is ever gained; empty if something is."""
        return "unsolvable at this setting" if self.p == 0 or self.f_max == 0 else ""

    def predict(self, k: ArrayLike) -> Any:
        """Quality after N units, N ≥ 0."""
        sizes = _units(self, k)
        if self.diagnostics is not None:
            warn_far(float(sizes.max(initial=0.0)), self.diagnostics.high)
        if self.p == 1:
            return like(k, np.where(sizes > 0, self.f_max, 0.0))
        return like(k, -self.f_max * np.expm1(sizes * math.log1p(-self.p)))

    def predict_interval(self, k: ArrayLike, level: float = 0.95) -> tuple[Any, Any]:
        """Bootstrap interval (over problems) of the quality after N units."""
        sizes = _units(self, k)
        low, high = self._bootstrap().quality_interval(lambda theta: _curve(theta, sizes.ravel()), level)
        return like(k, low.reshape(np.shape(k))), like(k, high.reshape(np.shape(k)))

    def parameter_interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of `p` or `f_max`."""
        if name not in ("p", "f_max"):
            raise ParameterError(self, "name", name, allowed="'p' or 'f_max'")
        if name == "p":
            low, high = self._bootstrap().interval(lambda theta: _natural(theta)[:, :1], level)
        else:
            low, high = self._bootstrap().quality_interval(lambda theta: _natural(theta)[:, 1:], level)
        return float(low[0]), float(high[0])

    def inverse(self, quality: float) -> float:
        """Units that reach a quality; infinite from the ceiling on."""
        if not 0 <= quality <= 1:
            raise ParameterError(self, "quality", quality, allowed="between 0 and 1")
        if quality == 0:
            return 0.0
        if quality >= self.limit:
            return 1.0 if self.p == 1 and quality == self.f_max else math.inf
        return 1.0 if self.p == 1 else math.log1p(-quality / self.f_max) / math.log1p(-self.p)

    def gain(self, k: float) -> float:
        """Gain of unit N + 1: F_max · p · (1 - p)^N."""
        return float(self.f_max * self.p * (1 - self.p) ** k)

    def saturation(self, epsilon: float = 0.01) -> float:
        """N* in closed form: see `saturation_point`."""
        return saturation_point(self.p, self.f_max, epsilon)

    def _bootstrap(self) -> ProblemBootstrap:
        if self.bootstrap is None:
            raise LawFitError(
                "this law was fitted to a curve, or given: it does not say how sure it is. Use fit_counts or fit_table"
            )
        return self.bootstrap


class GeometricMixture(BetaBinomialLaw):
    """The law with a p of its own for each problem, p ~ Beta(α, β): F(N) = E[1 - (1 - p)^N].

    The curve is the beta-binomial law of coverage; what is added is the gain of a unit and the stopping of one
    problem. Fitted by `GeometricMixture.fit(n, c)`.
    """

    formula = "F(N) = E[1 - (1 - p)^N], p ~ Beta(α, β)"

    def gain(self, k: float) -> float:
        """E[p (1 - p)^N] = B(α + 1, β + N) / B(α, β)."""
        a, b = self.alpha, self.beta
        log_gain = math.lgamma(b + k) - math.lgamma(a + b + k + 1) + math.lgamma(a + b) - math.lgamma(b)
        return a * math.exp(log_gain) if k < 1e9 else super().gain(k)

    def next_gain(self, n: int, c: int) -> float:
        """Chance that a problem of this set is first solved by its next draw, after c of n draws were right.

        0 once it is solved; α / (α + β + n) before. An allocator stops a problem where this is at most ε.
        """
        pass_at_k(n, c, 1) if n else None  # refuses counts that cannot be
        return 0.0 if c else self.alpha / (self.alpha + self.beta + n)


def fit_saturation(
    n: ArrayLike, c: ArrayLike, *, mode: Mode = "mixture", resamples: int = RESAMPLES, seed: int = 0
) -> GeometricSaturation | GeometricMixture:
    """Fit geometric saturation to counts of right draws.

    Args:
        n: draws per problem.
        c: right draws per problem.
        mode: `mixture` gives each problem its own p; `single` is the paper's curve, with a ceiling.
        resamples: bootstrap samples over problems of the single p; 0 for none. The mixture needs none.
        seed: of the bootstrap.
    """
    if mode == "mixture":
        return GeometricMixture.fit(n, c)
    if mode == "single":
        return GeometricSaturation.fit_counts(n, c, resamples=resamples, seed=seed)
    raise ParameterError("fit_saturation", "mode", mode, allowed="'mixture' or 'single'")


def _checked(units: ArrayLike, quality: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(units, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ParameterError("GeometricSaturation", "quality", y.shape, allowed=f"one number for each N, {x.shape}")
    if not np.all(np.isfinite(x)) or np.any(x <= 0) or np.unique(x).size != x.size:
        raise ParameterError("GeometricSaturation", "units", x.tolist(), allowed="finite, above 0, each once")
    if not np.all((y >= 0) & (y <= 1)):
        raise ParameterError("GeometricSaturation", "quality", y.tolist(), allowed="between 0 and 1")
    if x.size < 3:
        raise LawFitError(f"GeometricSaturation needs 3 points or more, one above its parameters; there are {x.size}")
    order = np.argsort(x)
    x, y = x[order], y[order]
    if np.ptp(y) < 1e-9:
        raise LawFitError(f"quality is constant ({y[0]:.4g} at every N): more compute brings nothing, or nothing new")
    centred = np.log(x) - np.log(x).mean()
    if y @ centred < 0:
        raise LawFitError(
            "quality falls as N grows, which right answers that stay right cannot do. "
            "Fit a RethinkingChain, in which right answers are lost again"
        )
    return x, y


def _fit(x: Floats, curves: Floats, start: Floats | None = None) -> Floats:
    """(logit p, logit f_max) of each row of `curves`."""

    def model(theta: Floats) -> tuple[Floats, Floats]:
        p, top = (column[:, None] for column in _natural(theta).T)
        survive = np.exp(x * np.log1p(-p))
        by_p = top * x * survive * p  # d/d logit p: x (1 - p)^(x - 1) · p (1 - p)
        return top * (1 - survive), np.stack([by_p, top * (1 - top) * (1 - survive)], axis=2)

    best, rss = np.zeros((len(curves), 2)), np.full(len(curves), np.inf)
    peak = np.clip(curves.max(axis=1), 1e-3, 0.98)
    starts = [np.broadcast_to(start, best.shape)] if start is not None else []
    for rate in (0.5, 2.0, 8.0):
        first = np.full(len(curves), min(0.9, rate / x.max()))
        starts.append(np.column_stack([np.log(first / (1 - first)), np.log(peak / (1 - peak))]))
    for guess in starts if start is None else starts[:1]:
        theta, found = levenberg_marquardt(model, curves, np.asarray(guess), tolerance=1e-12)
        better = found < rss
        best[better], rss[better] = theta[better], found[better]
    return np.clip(best, -_EDGE, _EDGE)


_EDGE = 30.0


def _natural(theta: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(theta, -_EDGE, _EDGE))))


def _logits(*values: float) -> Floats:
    inner = np.clip(np.array(values), 1e-13, 1 - 1e-13)
    return np.asarray(np.log(inner / (1 - inner)))


def _curve(theta: Floats, x: Floats) -> Floats:
    p, top = (column[:, None] for column in _natural(theta).T)
    return np.asarray(-top * np.expm1(x * np.log1p(-np.minimum(p, 1 - 1e-15))))


def _units(owner: object, k: ArrayLike) -> Floats:
    sizes = np.asarray(k, dtype=np.float64)
    if np.any(~(sizes >= 0)):
        raise ParameterError(owner, "k", k, allowed="0 or above")
    return sizes
