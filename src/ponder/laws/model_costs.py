"""Many draws of a cheap model against few of a dear one, at equal cost.

Paper    Brown et al. 2024, "Large Language Monkeys", §2.3 and its cost table.
Equal    Coverage of each model at the draws that one cost buys; cost in dollars, FLOPs or any other unit.
Differs  The comparison is paired over problems and carries a bootstrap interval.
Needs    Counts of right draws on the same problems, and a cost per draw.    Cost: milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ponder.errors import ParameterError
from ponder.laws.intervals import PairedDifference, paired_difference
from ponder.laws.pass_at_k import coverage_curve, pass_at_k


@dataclass(frozen=True)
class SampledModel:
    """What was drawn from one model, and what a draw costs.

    Args:
        name: of the model.
        n: draws per problem, one number or a list with one number a problem.
        c: right draws per problem, the same problems in the same order for every model compared.
        draw_cost: mean cost of one more draw on a problem, above 0, in the unit of the comparison.
        prompt_cost: cost paid once a problem, for a prompt that the draws share.
    """

    name: str
    n: int | list[int]
    c: list[int]
    draw_cost: float
    prompt_cost: float = 0.0

    def __post_init__(self) -> None:
        if not self.draw_cost > 0:
            raise ParameterError(self, "draw_cost", self.draw_cost, allowed="above 0")
        if not self.prompt_cost >= 0:
            raise ParameterError(self, "prompt_cost", self.prompt_cost, allowed="0 or above")
        if not len(self.c):
            raise ParameterError(self, "c", self.c, allowed="counts of one problem or more")
        if isinstance(self.n, list) and len(self.n) != len(self.c):
            raise ParameterError(self, "n", f"{len(self.n)} numbers", allowed=f"one number, or {len(self.c)}")

    @property
    def max_k(self) -> int:
        """Most draws for which coverage can be estimated."""
        return int(np.min(self.n))

    def cost(self, k: int) -> float:
        """Cost of k draws on one problem."""
        return self.prompt_cost + k * self.draw_cost

    def affordable(self, cost: float) -> int:
        """Draws on one problem that a cost buys; 0 if not even one."""
        return max(0, math.floor((cost - self.prompt_cost) / self.draw_cost + 1e-9))

    def solved(self, k: int) -> NDArray[np.float64]:
        """Chance per problem that k draws hold a right one."""
        return np.asarray(pass_at_k(np.broadcast_to(np.asarray(self.n), len(self.c)), self.c, k))


@dataclass(frozen=True, slots=True)
class CostComparison:
    """A cheap model and a dear one at equal cost.

    Attributes:
        cost: what `dear_k` draws of the dear model cost on one problem.
        dear_k: draws of the dear model.
        cheap_k: draws of the cheap model that the same cost buys.
        capped: whether the cost buys more draws of the cheap model than were measured, so that `cheap_k` is
            the number measured and the comparison is in the dear model's favour.
        dear_coverage: coverage of the dear model.
        cheap_coverage: coverage of the cheap one.
        difference: cheap minus dear, paired over problems.
        matching_k: fewest draws of the cheap model that reach the dear one's coverage; None if none measured did.
        matching_cost_ratio: their cost over `cost`; below 1 the cheap model is the better buy.
    """

    cost: float
    dear_k: int
    cheap_k: int
    capped: bool
    dear_coverage: float
    cheap_coverage: float
    difference: PairedDifference
    matching_k: int | None
    matching_cost_ratio: float | None


def compare_at_equal_cost(
    cheap: SampledModel, dear: SampledModel, *, dear_k: int = 1, level: float = 0.95, seed: int = 0
) -> CostComparison:
    """Compare many draws of a cheap model with few of a dear one, at equal cost per problem.

    Coverage counts a problem as solved if any draw is right, so it is what a perfect verifier would reach; with
    none, compare the accuracies of the two strategies instead.

    Args:
        cheap: the model that gets as many draws as the cost buys.
        dear: the model that sets the cost.
        dear_k: its draws.
        level: of the interval of the difference.
        seed: of the bootstrap.

    Raises:
        ParameterError: different problems, `dear_k` above what was measured, or a cost that buys no cheap draw.

    >>> cheap = SampledModel("small", n=10, c=[3, 2, 0, 5], draw_cost=0.1)
    >>> dear = SampledModel("large", n=2, c=[2, 1, 0, 1], draw_cost=1.0)
    >>> result = compare_at_equal_cost(cheap, dear)
    >>> result.cheap_k, result.cheap_coverage, result.dear_coverage, result.matching_k
    (10, 0.75, 0.5, 3)
    """
    if len(cheap.c) != len(dear.c):
        raise ParameterError(
            "compare_at_equal_cost", "cheap", f"{len(cheap.c)} problems", allowed=f"the same {len(dear.c)} problems",
            hint="the comparison is paired by problem",
        )  # fmt: skip
    if not 1 <= dear_k <= dear.max_k:
        raise ParameterError("compare_at_equal_cost", "dear_k", dear_k, allowed=f"between 1 and {dear.max_k}")
    cost = dear.cost(dear_k)
    bought = cheap.affordable(cost)
    if bought < 1:
        raise ParameterError(
            "compare_at_equal_cost", "cheap", cheap.name, allowed=f"cheap enough for one draw at cost {cost:g}",
            hint=f"one draw costs {cheap.cost(1):g}; swap the models or raise dear_k",
        )  # fmt: skip
    k = min(bought, cheap.max_k)
    a, b = cheap.solved(k), dear.solved(dear_k)
    goal = float(b.mean())
    sizes = np.arange(1, cheap.max_k + 1)
    reached = np.flatnonzero(coverage_curve(cheap.n, cheap.c, sizes) >= goal - 1e-12)
    match = int(sizes[reached[0]]) if reached.size else None
    return CostComparison(
        cost, dear_k, k, bought > cheap.max_k, goal, float(a.mean()), paired_difference(a, b, level=level, seed=seed),
        match, None if match is None else cheap.cost(match) / cost,
    )  # fmt: skip
