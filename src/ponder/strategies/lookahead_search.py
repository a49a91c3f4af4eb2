"""Lookahead search: a beam whose steps are scored by what they lead to.

Paper    Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally can be More Effective than Scaling Model
         Parameters", §5.2.
Equal    Beam search in which a step's score is the verifier's at the end of a rollout of up to `steps` further steps at
         temperature 0; the rollout itself is thrown away.
Differs  Rollouts stop at finished outputs and are paid for: the ledger shows them. `steps=0` is beam search.
Needs    A process in steps and a verifier of partial outputs.    Cost: n · (steps + 1) steps and n scores per level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ponder.core.context import Context
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.registry import strategy
from ponder.core.search_tree import set_aside
from ponder.core.state import State
from ponder.core.strategy import Result
from ponder.errors import ParameterError
from ponder.ledger.spend import Spend
from ponder.strategies._beam import Beam, run_beam


@strategy("lookahead_search", aliases=("lookahead",), what="hybrid", how="search:lookahead:beam, verification:process")
@dataclass(frozen=True)
class LookaheadSearch(Beam):
    """Keep the prefixes whose greedy continuations score best.

    Args:
        n: prefixes at a level; None takes the number from the study's sample axis.
        branch: continuations of each kept prefix.
        keep: prefixes kept at a level; None is max(1, n // branch).
        verifier: scores prefixes.
        how: how the scores of a prefix's steps become one number.
        finished: what a finished output does, as in `beam_search`.
        choose: chooses among the finished outputs.
        steps: how far a rollout goes beyond the step that it scores.
    """

    steps: int = 1

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0:
            raise ParameterError(self, "steps", self.steps, allowed="an integer ≥ 0")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Search level by level, then choose among what was finished."""
        return await run_beam(self, problem, ctx, self._score)

    async def _score(self, problem: Problem, ctx: Context, states: Sequence[State]) -> Floats:
        """Scores at the ends of greedy rollouts, shape (len(states),).

        Rollouts leave what finishing one output can cost; where the budget has no more than that, there are none.
        """
        reserve = set_aside(ctx, states, {}, Spend(verifier_calls=1))
        try:
            ends = await self._ends(ctx, states, 0 if reserve is None else self.steps)
        finally:
            ctx.meter.settle(reserve or Spend(), Spend())
        return np.asarray(await ctx.score(problem, ends, self.verifier))

    async def _ends(self, ctx: Context, states: Sequence[State], steps: int) -> list[State]:
        """Where greedy rollouts of so many steps lead; a state itself where the budget allows none."""
        ends = list(states)
        for _ in range(steps):
            going = [i for i, state in enumerate(ends) if not ctx.process.done(state)]
            if not going:
                break
            greedy = [replace(ends[i], meta={**ends[i].meta, "temperature": 0.0}) for i in going]
            for i, group in zip(going, await ctx.extend(greedy, [1] * len(going)), strict=True):
                ends[i] = group[0] if group else ends[i]
        return ends
