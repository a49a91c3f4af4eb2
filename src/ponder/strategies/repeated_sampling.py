"""Repeated sampling: draw N independent outputs and leave the choice to a selector.

Paper    Brown et al. 2024, "Large Language Monkeys: Scaling Inference Compute with Repeated Sampling".
Equal    N independent draws of one prompt; coverage is the share of problems that any of them solves.
Differs  Without a selector the first draw that has an answer is returned, so that accuracy alone says
         nothing beyond one sample: look at coverage, or compose with `| majority`.
Needs    Text only.    Cost: N draws.
"""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import strategy
from ponder.core.strategy import Result, Strategy
from ponder.errors import ParameterError


@strategy("repeated_sampling", aliases=("large_language_monkeys",), what="parallel", how="stimulation:repetition")
@dataclass(frozen=True)
class RepeatedSampling(Strategy):
    """Draw `n` outputs.

    Args:
        n: outputs to draw, n ≥ 1; None takes the number from the study's sample axis.
        temperature: overrides the study's.
    """

    n: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """All draws; the first one with an answer is the choice until a selector makes another."""
        meta = None if self.temperature is None else {"temperature": self.temperature}
        candidates = await ctx.draw(problem, self.n or 1, meta=meta)
        return ctx.result(candidates, next((i for i, c in enumerate(candidates) if c.valid), None))
