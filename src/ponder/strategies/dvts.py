"""Diverse verifier tree search: independent sub-trees, each following its best step, none competing with another.

Paper    Beeching, Tunstall & Rush 2024, "Scaling test-time compute with open models"; Liu et al. 2025, "Can 1B LLM
         Surpass 405B LLM? Rethinking Compute-Optimal Test-Time Scaling".
Equal    n / branch sub-trees; each draws `branch` next steps and keeps only the best; at the end the `branch` outputs
         of the last step of each sub-tree are the n candidates.
Differs  A sub-tree whose best step is finished ends there and keeps that step's siblings that are finished too. Equal
         scores: the earlier step.
Needs    A process in steps and a verifier of partial outputs.    Cost: n steps and n scores per level.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import Level, Next, level_loop, scorer, top
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS, strategy
from ponder.core.search_tree import Aggregate, search_result
from ponder.core.selector import Selector
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError


@strategy("dvts", aliases=("diverse_verifier_tree_search",), what="hybrid", how="search:beam, verification:process")
@dataclass(frozen=True)
class DVTS(Strategy):
    """`n / branch` sub-trees, each of which follows its best-scored step.

    Args:
        n: steps drawn at a level over all sub-trees; None takes the number from the study's sample axis.
        branch: next steps drawn in each sub-tree (the papers' M); it must divide n, and n = `branch` or less is one
            sub-tree.
        verifier: scores prefixes.
        how: how the scores of a prefix's steps become one number.
        choose: chooses among the finished outputs.
    """

    n: int | None = None
    branch: int = 4
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    how: Aggregate = "last"
    choose: Selector = field(default_factory=lambda: SELECTORS.build("weighted_majority"))

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.branch < 1:
            raise ParameterError(self, "branch", self.branch, allowed="an integer ≥ 1")
        if self.n is not None and (self.n < 1 or (self.n > self.branch and self.n % self.branch)):
            below = max(self.n // self.branch, 1) * self.branch
            raise ParameterError(
                self, "n", self.n, allowed=f"a multiple of branch={self.branch}, or less than it",
                hint=f"the nearest are n={below} and n={below + self.branch}",
            )  # fmt: skip

    def with_samples(self, n: int) -> DVTS:
        """At `n` steps per level, with the largest branching up to `branch` that divides n."""
        if self.n is not None:
            return self
        branch = next(b for b in range(min(self.branch, n), 0, -1) if n % b == 0)
        return DVTS(n, branch, self.verifier, self.how, self.choose)

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Follow the best step of each sub-tree to its end, then choose among all last steps."""
        n = self.n or 1
        branch = min(self.branch, n)

        async def select(level: Level) -> Next:
            scores = np.asarray([level.tree.aggregate(s, self.how) for s in level.states])
            trees = [int(s.path[0]) // branch for s in level.states]
            counts = np.where(level.open, 0, 1)
            best: dict[int, int] = {}
            for i in top(scores, len(scores)).tolist():
                best.setdefault(trees[i], i)
            going = {tree: i for tree, i in best.items() if level.open[i]}
            counts[[tree in going for tree in trees]] = 0
            counts[list(going.values())] = branch
            return Next(counts)

        search = await level_loop(
            problem, ctx, select, start=[(ctx.root(), n)], score=scorer(problem, ctx, self.verifier)
        )
        if not search.stopped and search.last is not None:
            last = set(search.last.states)
            search = replace(search, finished=tuple(s for s in search.finished if s in last))
        return await search_result(problem, ctx, search, self.verifier, choose=self.choose, how=self.how)
