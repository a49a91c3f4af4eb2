"""Quality against samples from a pilot's few problems: what was measured, and what is expected beyond it.

Two kinds of curve. A strategy that selects among independent draws is a function of one pool: at any n up to the
pool its accuracy is an average over subsets; beyond it, it lies between the continuation by a straight line in
(ln n, logit accuracy) and that by votes over redraws of the pool (under Bayesian-bootstrap weights, Rubin 1981). A
search has to be run at each width, so it is measured at a few; beyond them it is such a line, with a slope shrunk
towards 0 and an error that grows with the distance from what was measured.

Every curve answers with one accuracy per resample. Resamples share their problems, so curves can be compared in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ponder.core.seeds import generator

Floats = NDArray[np.float64]
Rule = Literal["majority", "best", "weighted"]

_STARTS = 16
"""Places at which an order of a problem's pool may begin, at least, over all arrangements."""

_REDRAWS, _VOTES = 100, 4
"""Redraws of a problem's pool (dealt in turn to the resamples), and votes on each, beyond the pool."""

_SLOPE_SD = 1.0
"""Prior standard deviation of a search's slope: logits per unit of ln n. The simulated searches lie within ±1.2."""

_BEND_SD = 0.25
"""Standard deviation of the error that a straight line makes: logits per unit of ln n beyond the measured widths."""


def orders(size: int, n: int, seed: int, problem: int) -> NDArray[np.int64]:
    """Orders of a problem's draws for what takes the first n of them at most, shape (orders, size).

    Rotations of the order in which the draws came, and of further arrangements in a small pool, by multiples of a
    quarter of n: every draw is equally often among the first n, and what overlaps by more says little new. Means over
    orders are unbiased, as draws are alike. All strategies get the same orders; the first is that of the draws.
    """
    rng = generator("orders", seed, problem)
    bases = [np.arange(size), *(rng.permutation(size) for _ in range(math.ceil(_STARTS / max(size, 1)) - 1))]
    rotated = [np.roll(base, -k) for base in bases for k in range(0, size, max(1, n // 4))]
    return np.stack(rotated) if size else np.zeros((1, 0), np.int64)


class Curve(Protocol):
    """Accuracy against samples."""

    @property
    def largest(self) -> int:
        """The largest number of samples that was measured."""

    def accuracy(self, n: int) -> Floats:
        """Accuracy at n samples in each resample; shape (resamples,)."""


@dataclass(frozen=True)
class Resamples:
    """Bootstrap weights over the pilot's problems, shared by all curves.

    Attributes:
        weights: shape (resamples, problems); rows sum to 1.
        seed: of further randomness.
    """

    weights: Floats
    seed: int = 0

    @classmethod
    def of(cls, problems: int, *, resamples: int = 400, seed: int = 0) -> Resamples:
        """Bayesian bootstrap: Dirichlet(1, …, 1) weights, so that no resample lacks a problem altogether."""
        rng = generator("pilot", seed, problems)
        return cls(rng.dirichlet(np.ones(problems), size=resamples), seed)

    def first(self, problems: int) -> Floats:
        """The weights of the first so many problems alone, for a strategy that was dropped after them."""
        part = self.weights[:, :problems]
        return np.asarray(part / part.sum(axis=1, keepdims=True))

    def lots(self) -> Floats:
        """One lot in [0, 1) for each resample: where pooled curves lie beyond the pool, the same for all of them."""
        return generator("pool_curve", self.seed).random(len(self.weights))


@dataclass(frozen=True)
class Draws:
    """One problem's pool.

    Attributes:
        groups: shape (n,): the answer of each draw as a number from 0, -1 for none.
        right: shape (number of answers,): whether each is right.
        scores: shape (n,): what each draw counts for, larger is better; None if votes count the same.
    """

    groups: NDArray[np.int64]
    right: NDArray[np.bool_]
    scores: Floats | None = None

    def outcomes(self, counts: NDArray[np.int64], rule: Rule) -> Floats:
        """Chance of a right choice for each row of `counts` (how often each draw is there); ties share the credit."""
        valid = self.groups >= 0
        if not valid.any():
            return np.zeros(len(counts))
        own = np.zeros((valid.sum(), len(self.right)))
        own[np.arange(len(own)), self.groups[valid]] = 1.0
        present = counts[:, valid]
        if rule == "best":
            value = np.where(present > 0, self._scores(-np.inf)[valid], -np.inf)
            top = (value == value.max(axis=1, keepdims=True)) & (present > 0)
            votes = np.where(top, present, 0) @ own
            total = votes.sum(axis=1)
            return np.asarray((votes @ self.right) / np.maximum(total, 1))
        weighted = present * self._scores(0.0)[valid] if rule == "weighted" else present
        votes = weighted @ own
        best = votes.max(axis=1, keepdims=True)
        tied = (votes >= best - 1e-12) & ((present @ own) > 0)
        return np.asarray((tied @ self.right) / np.maximum(tied.sum(axis=1), 1))

    def chosen(self, at: NDArray[np.int64]) -> Floats:
        """Whether the draws at these places are right, 1.0 or 0.0; place -1 is no draw."""
        group = np.append(self.groups, -1)[at]
        return np.asarray(np.append(self.right, False)[group], dtype=float)

    def _scores(self, missing: float) -> Floats:
        """The scores, `missing` where there is none; all equal without any."""
        scores = np.ones(len(self.groups)) if self.scores is None else self.scores
        return np.asarray(np.where(np.isnan(scores), missing, scores))


@dataclass(frozen=True)
class PoolCurve:
    """A selection among independent draws.

    Args:
        pools: one a problem, all with as many draws as `largest` or fewer (lost draws).
        rule: how one is chosen.
        largest: draws asked for.
        resamples: over the pilot's problems.
    """

    pools: Sequence[Draws]
    rule: Rule
    largest: int
    resamples: Resamples
    _known: dict[tuple[int, bool], Floats] = field(default_factory=dict, compare=False, repr=False)

    def accuracy(self, n: int) -> Floats:
        """Within the pool the average over orders; beyond it between two continuations, at a place drawn by lot.

        Votes over redraws keep the pool's own mistakes, so their change beyond the pool is too small where problems
        are alike; the straight line through a quarter of the pool and all of it is too steep where they are not.
        """
        if n <= self.largest:
            return self._average(n, False)
        end = self._logit(self._average(self.largest, False))
        redrawn = self._logit(self._average(n, True)) - self._logit(self._average(self.largest, True))
        quarter = max(1, self.largest // 4)
        line = _line(self._logit(self._average(quarter, False)), quarter, end, self.largest, n)
        share = self.resamples.lots()
        return _expit(end + share * line + (1 - share) * redrawn)

    def _average(self, n: int, redrawn: bool) -> Floats:
        if (n, redrawn) not in self._known:
            weights = self.resamples.first(len(self.pools))
            values = np.stack([self._problem(i, d, n, redrawn) for i, d in enumerate(self.pools)], axis=-1)
            self._known[n, redrawn] = (weights * values).sum(axis=1)
        return self._known[n, redrawn]

    def _logit(self, accuracy: Floats) -> Floats:
        return _logit(accuracy, len(self.pools))

    def _problem(self, i: int, draws: Draws, n: int, redrawn: bool) -> Floats:
        size, rounds = len(draws.groups), len(self.resamples.weights)
        if size == 0:
            return np.zeros(rounds)
        if not redrawn:
            first = orders(size, n, self.resamples.seed, i)[: None if n < size else 1, :n]
            counts = np.zeros((len(first), size), dtype=np.int64)
            np.put_along_axis(counts, first, 1, axis=1)
            return np.full(rounds, draws.outcomes(counts, self.rule).mean())
        rng = generator("pool_curve", self.resamples.seed, i, n)
        chances = rng.dirichlet(np.ones(size), size=_REDRAWS)
        counts = rng.multinomial(n, np.repeat(chances, _VOTES, axis=0))
        return np.resize(draws.outcomes(counts, self.rule).reshape(_REDRAWS, _VOTES).mean(axis=1), rounds)


@dataclass(frozen=True)
class ReplayCurve:
    """A strategy that stops by what it has seen, run on `orders` of the pools' draws.

    Args:
        right: by number of samples, a quarter of the largest among them: for each problem the share of the orders in
            which the choice is right.
        resamples: over the pilot's problems.
    """

    right: Mapping[int, Floats]
    resamples: Resamples

    @property
    def largest(self) -> int:
        """The largest number of samples that was replayed."""
        return max(self.right)

    def accuracy(self, n: int) -> Floats:
        """As replayed; beyond that between no change and the straight line, at a place drawn by lot."""
        if n in self.right:
            return self._mean(n)
        quarter = max(k for k in self.right if k <= max(1, self.largest // 4) or k == min(self.right))
        end, start = self._logit(self.largest), self._logit(quarter)
        return _expit(end + self.resamples.lots() * _line(start, quarter, end, self.largest, n))

    def _mean(self, n: int) -> Floats:
        return np.asarray(self.resamples.first(len(self.right[n])) @ self.right[n])

    def _logit(self, n: int) -> Floats:
        return _logit(self._mean(n), len(self.right[n]))


@dataclass(frozen=True)
class SearchCurve:
    """A strategy that was run at some widths.

    Args:
        correct: by width: 1.0 or 0.0 for each problem.
        resamples: over the pilot's problems.
        name: fixes the extrapolation's error.
    """

    correct: Mapping[int, Floats]
    resamples: Resamples
    name: str = ""

    @property
    def widths(self) -> list[int]:
        """The widths that were run, ascending."""
        return sorted(self.correct)

    @property
    def largest(self) -> int:
        """The largest of them."""
        return self.widths[-1]

    def accuracy(self, n: int) -> Floats:
        """As measured; between two widths on the straight line in (ln n, logit); beyond them with an error."""
        if n in self.correct:
            return self._measured(n)
        below, above = [w for w in self.widths if w < n], [w for w in self.widths if w > n]
        if below and above:
            low, high = below[-1], above[0]
            share = math.log(n / low) / math.log(high / low)
            return _expit((1 - share) * self._logit(low) + share * self._logit(high))
        end = below[-1] if below else above[0]
        distance = math.log(n / end)
        rng = generator("search_curve", self.resamples.seed, self.name)
        slope, spread = self._slope()
        normal = rng.standard_normal((2, len(slope)))
        return _expit(self._logit(end) + distance * (slope + spread * normal[0] + _BEND_SD * normal[1]))

    def _measured(self, width: int) -> Floats:
        values = self.correct[width]
        return np.asarray(self.resamples.first(len(values)) @ values)

    def _logit(self, width: int) -> Floats:
        return _logit(self._measured(width), len(self.correct[width]))

    def _slope(self) -> tuple[Floats, float]:
        """Logits per unit of ln n in each resample, shrunk, and the error that the shrinking leaves."""
        x = np.log(self.widths)
        y = np.stack([self._logit(w) for w in self.widths])
        if len(x) < 2:
            return np.zeros(y.shape[1]), _SLOPE_SD
        p, m = _expit(y.mean(axis=1)), np.array([len(self.correct[w]) for w in self.widths])
        precision = m * p * (1 - p)
        centred = x - np.average(x, weights=precision)
        information = float((precision * centred**2).sum())
        raw = (precision * centred) @ y / information
        keep = information / (information + _SLOPE_SD**-2)
        return keep * raw, math.sqrt((1 - keep) * keep / information)


@dataclass(frozen=True)
class CostCurve:
    """Mean cost per problem against samples: straight lines through what was measured.

    Beyond the last point its line goes on, which is right for draws that share a prompt and too much for strategies
    that stop early.

    Args:
        cost: by number of samples.
    """

    cost: Mapping[int, float]

    def at(self, n: int) -> float:
        """The cost at n; in proportion to n if one point is known."""
        x = sorted(self.cost)
        y = [self.cost[w] for w in x]
        if len(x) == 1:
            return y[0] * n / x[0]
        if n <= x[-1]:
            return float(np.interp(n, x, y))
        return y[-1] + max(y[-1] - y[-2], 0.0) * (n - x[-1]) / (x[-1] - x[-2])


def _line(start: Floats, first: int, end: Floats, last: int, n: int) -> Floats:
    """How much a straight line in ln n through two points rises from the last of them to n; 0 if they are one."""
    return (end - start) * (math.log(n / last) / math.log(last / first)) if first < last else np.zeros_like(end)


def _logit(accuracy: Floats, problems: int) -> Floats:
    """With half a problem of either kind added, so that none and all stay finite."""
    p = (accuracy * problems + 0.5) / (problems + 1)
    return np.asarray(np.log(p / (1 - p)))


def _expit(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -40, 40))))
