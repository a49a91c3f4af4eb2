"""Sequential scaling with losses: each round turns wrong into right with chance a, and right into wrong with chance b.

Paper    "Scaling over Scaling", 2025 (TTSPM), whose chain keeps right answers: there b = 0.
Differs  F(N) = π + (F(0) - π) (1 - a - b)^N with π = a / (a + b). With F(0) = 0 this is geometric saturation with
         F_max = π and p = a + b: the ceiling is explained by right answers that are lost again. With F(0) > π more
         rounds hurt. a and b come from counted transitions, with Wilson's intervals that count problems
         (`clustered_share`); what follows from them gets its interval by the recovery of variances (Zou & Donner 2008).
         A loss that no problem showed is so allowed for, of which a bootstrap knows nothing.
Needs    Right or wrong after every round.    Cost: milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.core.law import Diagnostics, Law, check_epsilon, diagnose, like, warn_far
from ponder.errors import LawFitError, ParameterError
from ponder.laws.intervals import pooled_share

Floats = NDArray[np.float64]

_NAMES = ("gained", "lost", "first")


@dataclass(frozen=True)
class RethinkingChain(Law):
    """Quality after N rounds of rethinking.

    Attributes:
        gained: a, chance that a round turns a wrong answer right, in [0, 1].
        lost: b, chance that it turns a right one wrong, in [0, 1].
        first: F(0), quality before the first round.
        n_problems: problems behind the fit.
        counts: of each problem: gained, times wrong, lost, times right before a round, first right, and 1; shape
            (problems, 6). None if the chain was given.
        diagnostics: the law against the mean of each round; None if it was not fitted.

    >>> law = RethinkingChain(0.3, 0.1)
    >>> round(law.limit, 3), round(law.predict(1), 3), law.saturation(0.01)
    (0.75, 0.3, 7.0)
    """

    gained: float
    lost: float = 0.0
    first: float = 0.0
    n_problems: int = 0
    counts: Floats | None = field(default=None, repr=False, compare=False)
    diagnostics: Diagnostics | None = field(default=None, repr=False, compare=False)

    formula = "F(N) = π + (F(0) - π) (1 - a - b)^N, π = a / (a + b)"

    def __post_init__(self) -> None:
        for name in _NAMES:
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(self, name, getattr(self, name), allowed="in [0, 1]")

    @classmethod
    def fit(cls, right: ArrayLike) -> RethinkingChain:
        """Count transitions.

        Args:
            right: 1 or 0 after each round, shape (problems, rounds + 1); the first column is before any rethinking.

        Raises:
            ParameterError: not a table of zeros and ones.
            LawFitError: fewer than 2 problems, no round, or no problem was ever wrong (a unknown) or right (b unknown)
                before a round.
        """
        table = np.asarray(right, dtype=np.float64)
        if table.ndim != 2 or not np.all((table == 0) | (table == 1)):
            raise ParameterError("RethinkingChain", "right", table.shape, allowed="rows of 0 and 1, one a problem")
        if len(table) < 2 or table.shape[1] < 2:
            raise LawFitError(f"RethinkingChain needs 2 problems and 1 round or more; right has shape {table.shape}")
        before, after = table[:, :-1], table[:, 1:]
        counts = np.column_stack([
            ((1 - before) * after).sum(1), (1 - before).sum(1), (before * (1 - after)).sum(1), before.sum(1),
            table[:, 0], np.ones(len(table)),
        ])  # fmt: skip
        total = counts.sum(axis=0)
        for at, what, missing in ((1, "wrong", "gained"), (3, "right", "lost")):
            if total[at] == 0:
                raise LawFitError(f"no answer was ever {what} before a round, so nothing says how many are {missing}")
        theta = total[::2] / total[1::2]
        rounds = np.arange(table.shape[1])
        found = diagnose(rounds, table.mean(axis=0), _curve(theta[None, :], rounds.astype(np.float64))[0], 3)
        gained, lost, first = (float(x) for x in theta)
        return cls(gained, lost, first, len(table), counts, found)

    @property
    def parameters(self) -> Mapping[str, float]:
        """`gained`, `lost` and `first`."""
        return {name: getattr(self, name) for name in _NAMES}

    @property
    def limit(self) -> float:
        """π = a / (a + b); F(0) if no round changes anything."""
        moved = self.gained + self.lost
        return self.gained / moved if moved else self.first

    @property
    def start(self) -> float:
        """Quality before the first round."""
        return self.first

    @property
    def oscillates(self) -> bool:
        """Whether a + b > 1: the quality then jumps from one side of its limit to the other."""
        return self.gained + self.lost > 1

    @property
    def reason(self) -> str:
        """What is odd about this chain; empty if nothing is."""
        if self.gained + self.lost == 0:
            return "no round changes anything"
        if self.first > self.limit:
            return "more rounds hurt: the first answers are better than the limit"
        if self.oscillates:
            return "quality oscillates: a + b > 1; saturation uses |1 - a - b|"
        return ""

    def predict(self, k: ArrayLike) -> Any:
        """Quality after N rounds, N ≥ 0; whole N if the chain oscillates."""
        rounds = np.asarray(k, dtype=np.float64)
        if np.any(~(rounds >= 0)):
            raise ParameterError(self, "k", k, allowed="0 or above")
        if self.oscillates and np.any(rounds != np.rint(rounds)):
            raise ParameterError(self, "k", k, allowed="whole numbers: this chain oscillates")
        if self.diagnostics is not None:
            warn_far(float(rounds.max(initial=0.0)), self.diagnostics.high)
        theta = np.array([[self.gained, self.lost, self.first]])
        return like(k, _curve(theta, rounds.ravel())[0].reshape(rounds.shape))

    def predict_interval(self, k: ArrayLike, level: float = 0.95) -> tuple[Any, Any]:
        """Interval (over problems) of the quality after N rounds."""
        rounds = np.asarray(k, dtype=np.float64)
        low, high = self._interval(lambda theta: _curve(theta, rounds.ravel()), level)
        return like(k, low.reshape(rounds.shape)), like(k, high.reshape(rounds.shape))

    def parameter_interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Interval of `gained`, `lost`, `first`, or `limit`."""
        names = (*_NAMES, "limit")
        if name not in names:
            raise ParameterError(self, "name", name, allowed=f"one of {', '.join(names)}")
        at = names.index(name)

        def values(theta: Floats) -> Floats:
            return theta[:, at : at + 1] if at < 3 else _limits(theta)[:, None]

        low, high = self._interval(values, level)
        return float(low[0]), float(high[0])

    def inverse(self, quality: float) -> float:
        """Rounds that reach a quality; infinite from the limit on. For an oscillating chain, a whole number."""
        if not 0 <= quality <= 1:
            raise ParameterError(self, "quality", quality, allowed="between 0 and 1")
        if quality <= self.first:
            return 0.0
        if self.oscillates:
            return next((float(n) for n in range(1, 1000) if self.predict(n) >= quality), math.inf)
        stay = 1 - self.gained - self.lost
        if quality >= self.limit:
            return 1.0 if stay == 0 and quality == self.limit else math.inf
        return 1.0 if stay == 0 else math.log((quality - self.limit) / (self.first - self.limit)) / math.log(stay)

    def saturation(self, epsilon: float = 0.01) -> float:
        """Smallest N whose next round gains at most ε, from |π - F(0)| (a + b) |1 - a - b|^N; 0 if rounds hurt."""
        from ponder.laws.geometric_saturation import saturation_point

        check_epsilon(self, epsilon)
        if self.first >= self.limit:
            return 0.0
        moved = self.gained + self.lost
        if not self.oscillates:
            return float(saturation_point(min(moved, 1.0), self.limit - self.first, epsilon))
        size, n = (self.limit - self.first) * moved, 0
        while size > epsilon and n < 1_000_000:
            size, n = size * (moved - 1), n + 1
        return float(n)

    def _interval(self, function: Callable[[Floats], Floats], level: float) -> tuple[Floats, Floats]:
        """Ends for a function of (a, b, F(0)), from how far each of the three alone can move it."""
        if self.counts is None:
            raise LawFitError("this chain was given and does not say how sure it is. Use RethinkingChain.fit(right)")
        hits, trials = self.counts[:, ::2], self.counts[:, 1::2]
        rates = [pooled_share(*both, level=level) for both in zip(hits.T, trials.T, strict=True)]
        theta = np.array([r.estimate for r in rates])
        ends = np.repeat(theta[None, :], 6, axis=0)
        ends[range(3), range(3)] = [r.low for r in rates]
        ends[range(3, 6), range(3)] = [r.high for r in rates]
        centre = function(theta[None, :])[0]
        moved = (function(ends) - centre).reshape(2, 3, -1)
        excess = hits - theta * trials
        size = np.sqrt((excess**2).sum(axis=0))
        together = excess.T @ excess / np.maximum(np.outer(size, size), 1e-300)
        np.fill_diagonal(together, 1.0)

        def reach(sign: int) -> Floats:
            """Root of the summed squares of each rate's move to its worse end, with how the rates vary together."""
            way = np.where(sign * moved[0] >= sign * moved[1], -1.0, 1.0)
            step = way * np.maximum((sign * moved).max(axis=0), 0.0)
            return np.asarray(np.sqrt(np.maximum(np.einsum("iq,ij,jq->q", step, together, step), 0.0)))

        return np.maximum(centre - reach(-1), 0.0), np.minimum(centre + reach(1), 1.0)


def _limits(theta: Floats) -> Floats:
    moved = theta[:, 0] + theta[:, 1]
    return np.divide(theta[:, 0], moved, out=theta[:, 2].copy(), where=moved != 0)


def _curve(theta: Floats, rounds: Floats) -> Floats:
    limit = _limits(theta)[:, None]
    stay = (1 - theta[:, 0] - theta[:, 1])[:, None]
    with np.errstate(invalid="ignore"):
        return np.asarray(limit + (theta[:, 2:3] - limit) * stay**rounds)
