"""Solve more or verify more: the exact value of S solutions with V verdicts each, and how the best split grows.

Paper    Singhi et al. 2025, "When To Solve, When To Verify: Compute-Optimal Problem Solving and Generative
         Verification for LLM Reasoning", §3-5.
Equal    A solution costs 1, a verdict λ; C(S, V) = S (1 + λ V). The best (S, V) per budget is fitted by
         ln S* = a ln C + const and ln V* = b ln C + const over budgets whose optimum is not at the grid's edge.
Differs  For the simulated solver and verifier the success of the best of S is exact instead of sampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ponder.errors import LawFitError, ParameterError
from ponder.laws.intervals import resampling_weights

Floats = npt.NDArray[np.float64]

SOLUTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
VERDICTS = (1, 2, 4, 8, 16, 32)
"""The paper's grid."""


def cost(solutions: int, verdicts: int, verdict_cost: float = 1.0) -> float:
    """C(S, V) = S (1 + λ V), in solutions.

    Args:
        solutions: S ≥ 1.
        verdicts: V ≥ 0; 0 is self-consistency.
        verdict_cost: λ, tokens of a verdict over tokens of a solution, times the models' size ratio. The paper
            takes 1 for a prompted verifier and 2 for a fine-tuned one; measure it from the ledger.
    """
    if solutions < 1 or verdicts < 0:
        raise ParameterError("cost", "solutions/verdicts", (solutions, verdicts), allowed="S ≥ 1 and V ≥ 0")
    if not verdict_cost > 0:
        raise ParameterError("cost", "verdict_cost", verdict_cost, allowed="a number > 0")
    return solutions * (1 + verdict_cost * verdicts)


@dataclass(frozen=True, slots=True)
class SolverAndVerifier:
    """A simulated solver and a verifier that says Yes or No.

    Args:
        accuracy: q, chance that a solution is right.
        yes_if_right: t, chance of Yes for a right solution.
        yes_if_wrong: f, chance of Yes for a wrong one.
        wrong: shares of the wrong answers among wrong solutions; they matter to self-consistency only.

    >>> model = SolverAndVerifier(0.4, 0.9, 0.3)
    >>> round(model.best_of(1, 4), 6), round(model.best_of(16, 8), 3)
    (0.4, 0.999)
    """

    accuracy: float
    yes_if_right: float
    yes_if_wrong: float
    wrong: tuple[float, ...] = (0.1,) * 10

    def __post_init__(self) -> None:
        for name in ("accuracy", "yes_if_right", "yes_if_wrong"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError("solver and verifier", name, getattr(self, name), allowed="in [0, 1]")
        if not self.wrong or min(self.wrong) < 0 or abs(sum(self.wrong) - 1) > 1e-9:
            raise ParameterError("solver and verifier", "wrong", self.wrong, allowed="shares that sum to 1")

    def best_of(self, solutions: int, verdicts: int) -> float:
        """Chance that the solution with the most Yes of `verdicts` is right; equals are drawn by lot.

        Σ_v [M(v)^S - M(v-1)^S] q Bin(v; V, t) / m(v), with m the distribution of a solution's Yes and M its
        cumulative sum.
        """
        if solutions < 1 or verdicts < 0:
            raise ParameterError("best_of", "solutions/verdicts", (solutions, verdicts), allowed="S ≥ 1 and V ≥ 0")
        right = self.accuracy * _binomial(verdicts, self.yes_if_right)
        mixture = right + (1 - self.accuracy) * _binomial(verdicts, self.yes_if_wrong)
        upper = np.minimum(np.cumsum(mixture), 1.0)
        below = np.concatenate([[0.0], upper[:-1]])
        share = np.divide(right, mixture, out=np.zeros_like(right), where=mixture > 0)
        return float(((upper**solutions - below**solutions) * share).sum())

    def self_consistency(self, solutions: int) -> float:
        """Chance that the majority of `solutions` is right; ties share the credit."""
        from ponder.laws.majority_limit import majority_accuracy

        probabilities = [self.accuracy, *((1 - self.accuracy) * w for w in self.wrong)]
        return majority_accuracy(probabilities, solutions)


class Point(NamedTuple):
    """One cell of a grid: solutions, verdicts (0 for self-consistency), success rate."""

    solutions: int
    verdicts: int
    success: float


def simulated_grid(
    model: SolverAndVerifier, solutions: Sequence[int] = SOLUTIONS, verdicts: Sequence[int] = VERDICTS
) -> list[Point]:
    """The exact success surface of a simulated pair."""
    return [Point(s, v, model.best_of(s, v)) for v in verdicts for s in solutions]


def stored_grid(
    right: npt.NDArray[np.bool_], verdicts: Floats, solutions: Sequence[int] = SOLUTIONS,
    numbers: Sequence[int] = VERDICTS,
) -> list[Point]:  # fmt: skip
    """The success surface of saved samples, best-of-S averaged over all subsets and orders.

    Args:
        right: whether each solution is right, shape (P, N).
        verdicts: 1 for Yes, 0 for No, NaN for a missing verdict, shape (P, N, V).
        solutions: values of S; those above N are left out.
        numbers: values of V; the first V stored verdicts are used.

    Raises:
        ParameterError: more verdicts asked for than stored.
    """
    cells, table = _stored_success(right, verdicts, solutions, numbers)
    return _points(cells, table.mean(axis=0))


def _stored_success(
    right: npt.NDArray[np.bool_], verdicts: Floats, solutions: Sequence[int], numbers: Sequence[int]
) -> tuple[list[tuple[int, int]], Floats]:
    """The cells (S, V), and the success of each problem in each, shape (P, cells)."""
    have = verdicts.shape[2]
    if max(numbers) > have:
        raise ParameterError("stored_grid", "numbers", max(numbers), allowed=f"at most the {have} stored verdicts")
    sizes = [s for s in solutions if s <= right.shape[1]]
    columns = []
    for v in numbers:
        said = verdicts[:, :, :v]
        known = ~np.isnan(said)
        scores = np.where(known, said, 0.0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)
        columns.append([_best_of(r, c, sizes) for r, c in zip(right, scores, strict=True)])
    return [(s, v) for v in numbers for s in sizes], np.concatenate(columns, axis=1)


def _points(cells: Sequence[tuple[int, int]], success: Floats) -> list[Point]:
    return [Point(*cell, float(x)) for cell, x in zip(cells, success, strict=True)]


def _best_of(right: npt.NDArray[np.bool_], scores: Floats, sizes: Sequence[int]) -> Floats:
    """Expected correctness of the best-scored of a random s-subset for each s, ties by lot."""
    _, where, members = np.unique(scores, return_inverse=True, return_counts=True)
    share = np.bincount(where, weights=right.astype(float)) / members
    at_most = np.cumsum(members)
    chances = [_all_among_first(len(right), s) for s in sizes]
    return np.array([share @ (c[at_most] - c[at_most - members]) for c in chances])


@lru_cache(maxsize=1024)
def _all_among_first(n: int, s: int) -> Floats:
    """Chance that s of n are all among the first m, for m = 0 … n."""
    return np.array([math.comb(m, s) / math.comb(n, s) for m in range(n + 1)])


@dataclass(frozen=True, slots=True)
class SplitLaw:
    """How the best split grows with the budget: S* ∝ C^a, V* ∝ C^b.

    Attributes:
        a: exponent of the solutions.
        b: exponent of the verdicts.
        log_solutions: constant of ln S*.
        log_verdicts: constant of ln V*.
        verdict_cost: λ.
        optima: (budget, best point) used in the fit.
    """

    a: float
    b: float
    log_solutions: float
    log_verdicts: float
    verdict_cost: float
    optima: tuple[tuple[float, Point], ...]

    def split(self, budget: float) -> tuple[int, int]:
        """(S, V) for a budget: powers of two, V ≥ 1, cost within the budget.

        V = 0 if not even one solution with one verdict fits.
        """
        if budget < cost(1, 1, self.verdict_cost):
            return max(1, int(budget)), 0
        verdicts = _power_of_two(math.exp(self.log_verdicts + self.b * math.log(budget)))
        solutions = _power_of_two(math.exp(self.log_solutions + self.a * math.log(budget)))
        while solutions * (1 + self.verdict_cost * verdicts) > budget and (solutions > 1 or verdicts > 1):
            if solutions > 1:
                solutions //= 2
            else:
                verdicts //= 2
        return solutions, verdicts


def fit_split(points: Sequence[Point], budgets: Sequence[float], verdict_cost: float = 1.0) -> SplitLaw:
    """Fit a and b from a grid of success rates.

    Args:
        points: cells with V ≥ 1.
        budgets: C, on a logarithmic grid; budgets whose optimum lies at the grid's largest S or V are left out.
        verdict_cost: λ.

    Raises:
        LawFitError: fewer than three budgets with an optimum inside the grid.
    """
    cells = [p for p in points if p.verdicts >= 1]
    if not cells:
        raise LawFitError("fit_split needs grid points with at least one verdict")
    most_s, most_v = max(p.solutions for p in cells), max(p.verdicts for p in cells)
    optima = []
    for budget in budgets:
        inside = [p for p in cells if cost(p.solutions, p.verdicts, verdict_cost) <= budget + 1e-9]
        if inside:
            best = max(inside, key=lambda p: (p.success, -cost(p.solutions, p.verdicts, verdict_cost)))
            if best.solutions < most_s and best.verdicts < most_v:
                optima.append((float(budget), best))
    return _fitted(optima, verdict_cost)


def exact_split(model: SolverAndVerifier, budgets: Sequence[float], verdict_cost: float = 1.0) -> SplitLaw:
    """Fit a and b on the exact surface with every integer V and S = floor(C / (1 + λ V))."""
    optima = []
    for budget in budgets:
        best: Point | None = None
        for v in range(1, int((budget - 1) / verdict_cost) + 1):
            s = int(budget / (1 + verdict_cost * v))
            point = Point(s, v, model.best_of(s, v))
            if best is None or point.success > best.success + 1e-12:
                best = point
        if best is not None:
            optima.append((float(budget), best))
    return _fitted(optima, verdict_cost)


def _fitted(optima: list[tuple[float, Point]], verdict_cost: float) -> SplitLaw:
    if len({budget for budget, _ in optima}) < 3:
        raise LawFitError(
            f"a split law needs at least 3 budgets with an optimum inside the grid; have {len(optima)}. "
            "Widen the grid of solutions and verdicts, or the budgets"
        )
    x = np.log([budget for budget, _ in optima])
    a, log_s = np.polyfit(x, np.log([p.solutions for _, p in optima]), 1)
    b, log_v = np.polyfit(x, np.log([p.verdicts for _, p in optima]), 1)
    return SplitLaw(float(a), float(b), float(log_s), float(log_v), verdict_cost, tuple(optima))


def split_intervals(
    right: npt.NDArray[np.bool_], verdicts: Floats, budgets: Sequence[float], verdict_cost: float = 1.0, *,
    solutions: Sequence[int] = SOLUTIONS, numbers: Sequence[int] = VERDICTS, resamples: int = 200, seed: int = 0,
) -> Mapping[str, tuple[float, float]]:  # fmt: skip
    """95 % percentile intervals of `a` and `b` from a bootstrap over problems.

    The optima lie on the grid, so a and b jump from value to value. The intervals hold the exponents of the exact
    surface *on this grid*, mostly more often than they say, and not those of a finer grid.

    Raises:
        LawFitError: fewer than half of the resamples could be fitted: the optimum mostly lies at the grid's edge.
    """
    cells, table = _stored_success(right, verdicts, solutions, numbers)
    fits = []
    for weights in resampling_weights(len(table), resamples=resamples, seed=seed):
        try:
            law = fit_split(_points(cells, weights @ table / len(table)), budgets, verdict_cost)
        except LawFitError:
            continue
        fits.append((law.a, law.b))
    if 2 * len(fits) < resamples:
        raise LawFitError(
            f"{len(fits)} of {resamples} bootstrap resamples had three budgets with an optimum inside the grid. "
            "Widen the grid of solutions and verdicts, or the budgets"
        )
    low, high = np.quantile(np.asarray(fits), [0.025, 0.975], axis=0)
    return {"a": (float(low[0]), float(high[0])), "b": (float(low[1]), float(high[1]))}


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where verifying begins to pay.

    Attributes:
        budget: the smallest C at which the best verified choice reaches self-consistency's plateau; None if it
            never does on the grid.
        plateau: the best success of self-consistency.
        plateau_budget: where self-consistency first comes within half a point of it.
        multiplier: budget over plateau_budget.
    """

    budget: float | None
    plateau: float
    plateau_budget: float
    multiplier: float | None


def crossing(self_consistency: Mapping[int, float], points: Sequence[Point], verdict_cost: float = 1.0) -> Crossing:
    """Compare a self-consistency curve with a grid of verified choices at equal compute.

    Args:
        self_consistency: success by number of solutions.
        points: cells with V ≥ 1.
        verdict_cost: λ.

    Raises:
        LawFitError: an empty curve.
    """
    if not self_consistency:
        raise LawFitError("crossing needs a self-consistency curve")
    plateau = max(self_consistency.values())
    near = min(float(s) for s, value in self_consistency.items() if value >= plateau - 0.005)
    reached = [cost(p.solutions, p.verdicts, verdict_cost) for p in points if p.verdicts and p.success >= plateau]
    budget = min(reached, default=None)
    return Crossing(budget, plateau, near, None if budget is None else budget / near)


def allocate(
    budget: float, law: SplitLaw, where: Crossing, *, yes_if_right: float, yes_if_wrong: float
) -> tuple[int, int]:
    """(S, V) for a budget: self-consistency below the crossing, the fitted split above it.

    A verifier that tells right from wrong by less than 0.05 is not worth asking: V = 0.
    """
    if budget < 1:
        raise ParameterError("allocate", "budget", budget, allowed="at least 1, the cost of one solution")
    if yes_if_right - yes_if_wrong < 0.05 or where.budget is None or budget < where.budget:
        return int(budget), 0
    return law.split(budget)


@lru_cache(maxsize=4096)
def _binomial(n: int, p: float) -> Floats:
    return np.asarray([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


def _power_of_two(value: float) -> int:
    return int(2 ** max(0, round(math.log2(max(value, 1.0)))))
