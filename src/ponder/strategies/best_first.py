"""Best-first search: always extend the open node with the highest score, anywhere in the tree.

Source   Greedy best-first search (Russell & Norvig, "Artificial Intelligence: A Modern Approach"); over a language
         model's steps as in treequest's best-first (Inoue et al. 2025).
Equal    Pop the best, draw `branch` children, score them, push them.
Differs  Ends with the first finished output that is popped, or goes on until the expansions are used up and
         chooses among all finished ones (`first=false`). Equal scores: the deeper, then the older.
Needs    A process in steps and a verifier of partial outputs.    Cost: `branch` steps and scores per expansion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ponder.core.context import Context
from ponder.core.level_loop import scorer
from ponder.core.node_loop import node_loop
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS, strategy
from ponder.core.search_tree import once_per_step, search_result
from ponder.core.selector import Selector
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.strategies._frontier import Frontier, expansions_for


@strategy("best_first", aliases=("best_first_search",), what="hybrid", how="search:best_first, verification:process")
@dataclass(frozen=True)
class BestFirst(Strategy):
    """Extend the best open node until a finished output comes to the front.

    Args:
        n: as many steps at most as n samples have; None takes the number from the study's sample axis.
        branch: children of each expanded node.
        steps: steps that count as one sample; none takes the process's limit of steps, else 8.
        verifier: scores prefixes.
        first: stop at the first finished output that comes to the front.
        choose: chooses among the finished outputs.
    """

    n: int | None = None
    branch: int = 4
    steps: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    first: bool = True
    choose: Selector = field(default_factory=lambda: SELECTORS.build("best_score"))

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("n", "branch", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Expand until something finished comes to the front, or the expansions are used up."""
        policy = Frontier(ctx, self.branch, lambda state, score: score, stop_at_first=self.first)
        expansions = expansions_for(ctx, self.n or 1, self.branch, self.steps)
        score = once_per_step(scorer(problem, ctx, self.verifier))
        search = await node_loop(problem, ctx, policy, score=score, expansions=expansions)
        return await search_result(
            problem, ctx, search, self.verifier, choose=self.choose, expanded=search.details["expansions"]
        )
