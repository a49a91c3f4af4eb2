"""Beam search guided by a verifier: keep the best prefixes of each level, continue each several times.

Paper    Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally can be More Effective than Scaling Model
         Parameters", §5.2.
Equal    n first steps; the best n / branch are kept and continued `branch` times each, to the end; the choice
         is a vote weighted by the last step's score.
Differs  Finished outputs leave the beam and wait for the choice (`finished=compete` and `shrink` are the other
         conventions in use). If n is not a multiple of `branch`, n continuations are dealt in turn to the
         kept, the best first. Equal scores: the earlier stays.
Needs    A process in steps, and a verifier of partial outputs (`log_probability` makes it a plain beam
         search).    Cost: n steps and n scores per level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ponder.core.context import Context
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.registry import strategy
from ponder.core.state import State
from ponder.core.strategy import Result
from ponder.strategies._beam import Beam, run_beam


@strategy("beam_search", aliases=("beam",), what="hybrid", how="search:beam, verification:process")
@dataclass(frozen=True)
class BeamSearch(Beam):
    """Keep the best `keep` prefixes of `n` at every level.

    Args:
        n: prefixes at a level (the papers' N); None takes the number from the study's sample axis.
        branch: continuations of each kept prefix (the papers' M); at most n.
        keep: prefixes kept at a level; None is max(1, n // branch).
        verifier: scores prefixes.
        how: how the scores of a prefix's steps become one number.
        finished: what a finished output does: `retire` (leave; the beam stays as wide, and ends with n of them),
            `shrink` (leave, and the beam gets narrower), `compete` (keep its place while it is among the best).
        choose: chooses among the finished outputs.
    """

    stepwise: ClassVar[bool] = True

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Search level by level, then choose among what was finished."""
        return await run_beam(self, problem, ctx, self._score)

    async def _score(self, problem: Problem, ctx: Context, states: Sequence[State]) -> Floats:
        return await ctx.score(problem, states, self.verifier)
