"""A*-decoding: best-first over partial outputs by f = g + h, both from the verifier's scores.

Paper    Chatziveroglou 2025, "A*-Decoding: Token-Efficient Inference Scaling".
Equal    h = 1 - score of the last step, a goal's too; the node with the smallest f is extended by `branch` steps; the
         first finished output that comes to the front is the answer; if the expansions run out, the best
         finished one, else the best open one is completed.
Differs  The paper does not print its step costs. `cost=drop` adds up the rises of h along the path; `cost=consistent`
         its falls, under which f never falls along a path. Siblings with the same step are kept and scored once.
Needs    A process in steps and a verifier with scores in [0, 1].    Cost: `branch` steps and scores per expansion.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from ponder.core.context import Context
from ponder.core.level_loop import scorer
from ponder.core.node_loop import node_loop
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS, strategy
from ponder.core.search_tree import once_per_step, search_result
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError, VerifierError
from ponder.strategies._frontier import Frontier, expansions_for


@strategy("a_star", aliases=("a_star_decoding",), what="hybrid", how="search:a_star, verification:process")
@dataclass(frozen=True)
class AStar(Strategy):
    """Extend the node with the smallest cost so far plus estimated cost to come.

    Args:
        n: as many steps at most as n samples have; None takes the number from the study's sample axis.
        branch: next steps drawn from each expanded node.
        steps: steps that count as one sample; none takes the process's limit of steps, else 8.
        verifier: scores prefixes, in [0, 1].
        cost: of a step: `drop` is what the score falls by, `consistent` what it rises by.
        start: h of the prompt itself.
        frontier: open nodes kept at most; none keeps all.
        batch: nodes extended together; more than 1 saves time and may extend nodes that one by one would not.
    """

    n: int | None = None
    branch: int = 4
    steps: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    cost: Literal["drop", "consistent"] = "drop"
    start: float = 0.5
    frontier: int | None = None
    batch: int = 1

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("n", "branch", "steps", "frontier", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if not 0 <= self.start <= 1:
            raise ParameterError(self, "start", self.start, allowed="in [0, 1]")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Expand until a finished output comes to the front."""
        root = ctx.root()
        bounded = self.verifier.range == (0.0, 1.0)
        h: dict[State, float] = {root: self.start}
        g: dict[State, float] = {root: 0.0}

        def rank(state: State, score: float) -> float:
            assert state.parent is not None
            if score != score:
                h[state], g[state] = 1.0, g[state.parent] + 1.0
                return -2.0 - g[state]
            if bounded and not 0 <= score <= 1:
                raise VerifierError(
                    f"{self.verifier} gave the score {score:g} to the step {str(state.step)[:60]!r}; a_star needs "
                    "scores in [0, 1]. Use another verifier, or best_first."
                )
            before = h[state.parent]
            h[state] = 1.0 - score
            rise = h[state] - before
            g[state] = g[state.parent] + max(0.0, rise if self.cost == "drop" else -rise)
            return -(g[state] + h[state])

        policy = Frontier(ctx, self.branch, rank, most=self.frontier)
        search = await node_loop(
            problem, ctx, policy, score=once_per_step(scorer(problem, ctx, self.verifier)), batch=self.batch,
            expansions=expansions_for(ctx, self.n or 1, self.branch, self.steps),
        )  # fmt: skip
        if policy.goal is None:
            return await search_result(problem, ctx, search, self.verifier, choose=SELECTORS.build("best_score"))
        result = await search_result(problem, ctx, search, self.verifier, f=g[policy.goal] + h[policy.goal])
        return replace(result, chosen=(search.finished.index(policy.goal),), status="ok")
