"""The exponentiated power law of coverage: c(k) = c_max · exp(a · k^b), with a < 0 and b < 0.

Paper    Brown et al. 2024, "Large Language Monkeys: Scaling Inference Compute with Repeated Sampling", §3.
Equal    ln c = a · k^b; starting values from the straight line of ln(-ln c) on ln k.
Differs  Least squares on c itself (`target="log"` for ln c) on log-spaced k. A plateau c_max < 1 is tried too and
         kept only if AICc prefers it; neighbouring points of one coverage curve share nearly all their draws, so
         AICc counts one observation per doubling of k. Intervals are a bootstrap over problems with expanded
         percentiles, and BCa if no plateau is tried.
Needs    Counts of right draws, or a coverage curve.    Cost: milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.core.law import Diagnostics, Law, aicc, diagnose, like, warn_far
from ponder.errors import LawFitError, ParameterError
from ponder.laws._bootstrap import Curve, ProblemBootstrap
from ponder.laws._least_squares import levenberg_marquardt
from ponder.laws.intervals import RESAMPLES
from ponder.laws.pass_at_k import log_spaced_k, pass_at_k

Floats = NDArray[np.float64]
Target = Literal["coverage", "log"]

_LOG_SLOPE = 8.0
_FLAT = 1e-9
_LEAST_FOR_PLATEAU = 5


@dataclass(frozen=True)
class CoverageLaw(Law):
    """A fitted coverage law.

    Build it with `CoverageLaw.fit` or `CoverageLaw.fit_counts`.

    Attributes:
        a: below 0; c(1) = c_max · exp(a).
        b: below 0 for coverage that grows.
        c_max: the plateau; 1.0 if none was needed.
        capped: whether a plateau is part of the law.
        r2: share of the curve's variance that the law explains.
        max_error: largest distance between curve and law, in coverage.
        k_min: smallest k of the fit.
        k_max: largest k of the fit.
        n_points: points of the fit.
        n_problems: problems behind the curve; 0 if only the curve was given.
        bootstrap: of (a, b, c_max) over problems; None without one.
        diagnostics: the law against the points of the fit; None if it was not fitted.
    """

    a: float
    b: float
    c_max: float = 1.0
    capped: bool = False
    r2: float = 1.0
    max_error: float = 0.0
    k_min: float = 1.0
    k_max: float = math.inf
    n_points: int = 0
    n_problems: int = 0
    bootstrap: ProblemBootstrap | None = field(default=None, repr=False, compare=False)
    diagnostics: Diagnostics | None = field(default=None, repr=False, compare=False)

    formula = "c(k) = c_max · exp(a · k^b)"

    @classmethod
    def fit(
        cls,
        k: ArrayLike,
        coverage: ArrayLike,
        *,
        capped: bool | None = None,
        target: Target = "coverage",
    ) -> CoverageLaw:
        """Fit the law to a coverage curve.

        Args:
            k: draws, shape (points,), above 0, all different.
            coverage: shape (points,), in [0, 1]. Points at exactly 0 or 1 are left out: 0 has no logarithm, and
                1 says nothing about b.
            capped: whether the law has a plateau; None lets AICc choose.
            target: `coverage` minimises the error in c, `log` the error in ln c.

        Raises:
            ParameterError: shapes differ, k ≤ 0 or repeated, coverage outside [0, 1].
            LawFitError: fewer than 3 usable points (4 with a plateau), or a constant curve.

        >>> k = [1, 2, 4, 8, 16]
        >>> law = CoverageLaw.fit(k, [math.exp(-1.5 * x**-0.35) for x in k])
        >>> round(law.a, 6), round(law.b, 6), law.capped
        (-1.5, -0.35, False)
        """
        sizes, curve = _checked_curve(k, coverage)
        usable = (curve > 0) & (curve < 1)
        _check_usable(sizes, curve, usable, capped)
        sizes, curve = sizes[usable], curve[usable]
        theta, chosen = _fit(sizes, curve[None, :], capped, target)
        return cls._of(theta[0], bool(chosen[0]), sizes, curve)

    @classmethod
    def fit_counts(
        cls,
        n: ArrayLike,
        c: ArrayLike,
        *,
        k: ArrayLike | None = None,
        capped: bool | None = None,
        target: Target = "coverage",
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> CoverageLaw:
        """Fit the law to counts of right draws; `predict_interval` then works.

        Args:
            n: draws per problem, one number or shape (problems,).
            c: right draws per problem, shape (problems,).
            k: where to fit; by default up to 40 log-spaced k from 1 to the smallest n.
            capped: as in `fit`; None takes the intervals from fits with a plateau, whatever AICc chose: few draws
                often do not show one.
            target: as in `fit`.
            resamples: bootstrap samples over problems; 0 for none.
            seed: of the bootstrap.

        Raises:
            ParameterError: counts that cannot be.
            LawFitError: as in `fit`.
        """
        right = np.atleast_1d(np.asarray(c))
        samples = np.broadcast_to(np.asarray(n), right.shape)
        if right.size == 0:
            raise LawFitError("CoverageLaw needs the counts of one problem or more; there are none")
        grid = log_spaced_k(int(samples.min())) if k is None else np.asarray(k)
        table = np.asarray(pass_at_k(samples[:, None], right[:, None], grid[None, :]), dtype=np.float64)
        sizes, curve = _checked_curve(grid, table.mean(axis=0))
        usable = (curve > 0) & (curve < 1)
        _check_usable(sizes, curve, usable, capped)
        sizes, curve, table = sizes[usable], curve[usable], table[:, usable]
        theta, chosen = _fit(sizes, curve[None, :], capped, target)
        bootstrap = None
        if resamples and right.size > 1:
            floor = curve.min() * 1e-3 if target == "log" else 0.0

            plateau = sizes.size >= _LEAST_FOR_PLATEAU if capped is None else capped

            def refit(means: Floats) -> Floats:
                return _natural(_fit(sizes, np.clip(means, floor, 1), plateau, target, tolerance=1e-6)[0])

            bootstrap = ProblemBootstrap.of(
                table, refit, _natural(theta)[0], resamples=resamples, seed=seed, corrected=not plateau
            )
        return cls._of(theta[0], bool(chosen[0]), sizes, curve, n_problems=right.size, bootstrap=bootstrap)

    @classmethod
    def _of(
        cls, theta: Floats, capped: bool, k: Floats, curve: Floats, *, n_problems: int = 0,
        bootstrap: ProblemBootstrap | None = None,
    ) -> CoverageLaw:  # fmt: skip
        a, b, c_max = (float(x) for x in _natural(theta[None, :])[0])
        found = diagnose(k, curve, _curve(a, b, c_max, k), 3 if capped else 2)
        return cls(
            a, b, c_max, capped, r2=found.r2, max_error=found.max_error, k_min=found.low, k_max=found.high,
            n_points=k.size, n_problems=n_problems, bootstrap=bootstrap, diagnostics=found,
        )  # fmt: skip

    @property
    def parameters(self) -> Mapping[str, float]:
        """`a` and `b`, and `c_max` if the law has a plateau."""
        return {"a": self.a, "b": self.b} | ({"c_max": self.c_max} if self.capped else {})

    @property
    def limit(self) -> float:
        """Coverage for infinitely many draws."""
        return self.c_max if self.decaying else 0.0

    @property
    def decaying(self) -> bool:
        """Whether failures die out as k grows (a < 0, b < 0); if not, the law does not extrapolate."""
        return self.a < 0 and self.b < 0

    def predict(self, k: ArrayLike) -> Any:
        """Coverage at k draws.

        Args:
            k: one number or an array, above 0.

        Returns:
            A float for a number, an array for an array.

        Raises:
            ParameterError: k ≤ 0.
            LawFitError: k beyond the fitted ones when the law does not describe a growing coverage.

        Warns:
            UserWarning: k is more than 10 times the largest fitted k.
        """
        return like(k, _curve(self.a, self.b, self.c_max, self._reachable(k)))

    def predict_interval(self, k: ArrayLike, level: float = 0.95) -> tuple[Any, Any]:
        """Bootstrap interval (over problems) of the coverage at k draws.

        It holds what other problems of the same kind would have given. Beyond the fitted k it also holds the
        choice of a plateau, but not that the form of the law may be wrong: compare `BetaBinomialLaw`.

        Raises:
            LawFitError: the law was fitted to a curve and not to counts.
        """
        sizes = self._reachable(k)

        def coverage(theta: Floats) -> Floats:
            return np.stack([_curve(a, b, top, sizes.ravel()) for a, b, top in theta])

        low, high = self._quality_interval(coverage, level)
        return like(k, low.reshape(np.shape(k))), like(k, high.reshape(np.shape(k)))

    def parameter_interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of one parameter: `a`, `b` or `c_max`."""
        names = ("a", "b", "c_max")
        if name not in names:
            raise ParameterError(self, "name", name, allowed=f"one of {', '.join(names)}")
        at = names.index(name)
        find = self._quality_interval if name == "c_max" else self._bootstrap().interval
        low, high = find(lambda theta: theta[:, at : at + 1], level)
        return float(low[0]), float(high[0])

    def inverse(self, quality: float) -> float:
        """Draws that reach a coverage, (ln(quality / c_max) / a)^(1 / b); infinite from the plateau on.

        Raises:
            ParameterError: quality ≤ 0 or above 1.
            LawFitError: the law does not describe a growing coverage.
        """
        if not 0 < quality <= 1:
            raise ParameterError(self, "quality", quality, allowed="above 0 and at most 1")
        if not self.decaying:
            raise LawFitError(self._why_not())
        if quality >= self.c_max:
            return math.inf
        log_k = math.log(math.log(quality / self.c_max) / self.a) / self.b
        return math.exp(log_k) if log_k < 700 else math.inf

    def slope(self, k: ArrayLike) -> Any:
        """Coverage gained per unit of ln k at k: a · b · k^b · c(k)."""
        sizes = self._reachable(k)
        return like(k, self.a * self.b * sizes**self.b * _curve(self.a, self.b, self.c_max, sizes))

    @property
    def steepest(self) -> float:
        """Where c'(k) peaks, ((1 - b) / (a b))^(1 / b): the form is S-shaped, and for hard problems far out."""
        if not self.decaying:
            raise LawFitError(self._why_not())
        log_k = math.log((1 - self.b) / (self.a * self.b)) / self.b
        return math.exp(log_k) if log_k < 34 else math.inf

    def _quality_interval(self, quality: Curve, level: float) -> tuple[Floats, Floats]:
        """Without a plateau by decree no problem is unsolvable; else resamples may miss those that are."""
        bootstrap = self._bootstrap()
        return (bootstrap.interval if bootstrap.corrected else bootstrap.quality_interval)(quality, level)

    def _bootstrap(self) -> ProblemBootstrap:
        if self.bootstrap is None:
            raise LawFitError(
                "this law was fitted to a curve, which does not say how sure it is. "
                "Use CoverageLaw.fit_counts with the counts of two problems or more"
            )
        return self.bootstrap

    def _reachable(self, k: ArrayLike) -> Floats:
        sizes = np.asarray(k, dtype=np.float64)
        if np.any(~(sizes > 0)):
            raise ParameterError(self, "k", k, allowed="above 0")
        if sizes.size and sizes.max() > self.k_max:
            if not self.decaying:
                raise LawFitError(self._why_not())
            warn_far(float(sizes.max()), self.k_max)
        return sizes

    def _why_not(self) -> str:
        return (
            f"the curve does not follow a law of growing coverage (a={self.a:.3g}, b={self.b:.3g}; both must be "
            "below 0), so it is not extrapolated. Look at the curve itself"
        )


def _curve(a: float, b: float, c_max: float, k: Floats) -> Floats:
    return np.asarray(c_max * np.exp(a * k**b), dtype=np.float64)


def _natural(theta: Floats) -> Floats:
    """From (ln(-a), b[, logit of c_max]) to (a, b, c_max)."""
    top = 1 / (1 + np.exp(-theta[:, 2]))
    return np.stack([-np.exp(theta[:, 0]), theta[:, 1], top], axis=1)


def _fit(
    k: Floats, curves: Floats, capped: bool | None, target: Target, *, tolerance: float = 1e-14
) -> tuple[Floats, NDArray[np.bool_]]:
    """Fit each row of `curves`; give (ln(-a), b, logit c_max) and whether the plateau is used."""
    if target not in ("coverage", "log"):
        raise ParameterError("CoverageLaw", "target", target, allowed="'coverage' or 'log'")
    log_k = np.log(k)
    y = np.log(curves) if target == "log" else curves
    start = _start(log_k, curves)
    plain, plain_rss = levenberg_marquardt(_form(log_k, target, plateau=False), y, start, tolerance=tolerance)
    plain = np.column_stack([plain, np.full(len(plain), np.inf)])
    if capped is False or (capped is None and k.size < _LEAST_FOR_PLATEAU):
        return plain, np.zeros(len(plain), dtype=bool)
    best, best_rss = np.empty((len(curves), 3)), np.full(len(curves), np.inf)
    peak = curves.max(axis=1)
    for room in (0.02, 0.3, 0.8):
        top = np.clip(peak + room * (1 - peak), 1e-6, 1 - 1e-6)
        scaled = curves / top[:, None]
        guess = np.column_stack([_start(log_k, scaled), np.log(top / (1 - top))])
        theta, rss = levenberg_marquardt(_form(log_k, target, plateau=True), y, guess, tolerance=tolerance)
        better = rss < best_rss
        best[better], best_rss[better] = theta[better], rss[better]
    best[:, 2] = np.minimum(best[:, 2], 40.0)
    use = np.ones(len(curves), dtype=bool)
    if capped is None:
        seen = min(float(k.size), 1 + math.log2(k.max() / k.min()))
        use = np.array([aicc(c, seen, 3) < aicc(p, seen, 2) for c, p in zip(best_rss, plain_rss, strict=True)])
    return np.where(use[:, None], best, plain), use


def _start(log_k: Floats, curves: Floats) -> Floats:
    """Straight lines of ln(-ln c) on ln k: intercept ln(-a), slope b."""
    inner = np.clip(curves, 1e-6, 1 - 1e-6)
    z = np.log(-np.log(inner))
    centred = log_k - log_k.mean()
    slope = (z @ centred) / (centred @ centred)
    return np.column_stack([z.mean(axis=1) - slope * log_k.mean(), slope])


def _form(log_k: Floats, target: Target, *, plateau: bool) -> Any:
    """Values and derivatives of the law (or of its logarithm) at all k, for many parameter sets."""

    def model(theta: Floats) -> tuple[Floats, Floats]:
        u = np.clip(theta[:, :1], -60, 60)
        exponent = np.exp(np.clip(u + np.clip(theta[:, 1:2], -_LOG_SLOPE, _LOG_SLOPE) * log_k, -60, 60))
        top = 1 / (1 + np.exp(-np.clip(theta[:, 2:3], -40, 40))) if plateau else np.ones((len(theta), 1))
        if target == "log":
            values, outer = np.log(top) - exponent, np.ones_like(exponent)
            by_top = np.broadcast_to(1 - top, exponent.shape)
        else:
            values = top * np.exp(-exponent)
            outer, by_top = values, values * (1 - top)
        columns = [-outer * exponent, -outer * exponent * log_k] + ([by_top] if plateau else [])
        return values, np.stack(columns, axis=2)

    return model


def _checked_curve(k: ArrayLike, coverage: ArrayLike) -> tuple[Floats, Floats]:
    try:
        sizes, curve = np.asarray(k, dtype=np.float64), np.asarray(coverage, dtype=np.float64)
    except (TypeError, ValueError):
        raise ParameterError("CoverageLaw", "coverage", coverage, allowed="numbers, one for each k") from None
    if sizes.ndim != 1 or sizes.shape != curve.shape:
        raise ParameterError("CoverageLaw", "coverage", curve.shape, allowed=f"one number for each k, {sizes.shape}")
    if not np.all(np.isfinite(sizes)) or np.any(sizes <= 0) or np.unique(sizes).size != sizes.size:
        raise ParameterError("CoverageLaw", "k", sizes.tolist(), allowed="finite, above 0, each once")
    if not np.all((curve >= 0) & (curve <= 1)):
        raise ParameterError("CoverageLaw", "coverage", curve.tolist(), allowed="between 0 and 1")
    return sizes, curve


def _check_usable(k: Floats, curve: Floats, usable: NDArray[np.bool_], capped: bool | None) -> None:
    """Say why a curve does not identify the law."""
    needed = 4 if capped else 3
    if usable.sum() < needed:
        zeros, ones = int((curve <= 0).sum()), int((curve >= 1).sum())
        why = [f"{zeros} at coverage 0"] * bool(zeros) + [f"{ones} at coverage 1"] * bool(ones)
        left_out = f" ({', '.join(why)} left out)" if why else ""
        raise LawFitError(
            f"CoverageLaw needs {needed} or more points with coverage between 0 and 1; there are "
            f"{int(usable.sum())} of {k.size}{left_out}. Draw more samples or take harder or easier problems"
        )
    if np.ptp(curve[usable]) < _FLAT:
        raise LawFitError(
            f"coverage is constant ({curve[usable][0]:.4g} at every k): more draws bring nothing new. "
            "Are the samples identical (temperature 0, or a caching endpoint)?"
        )
