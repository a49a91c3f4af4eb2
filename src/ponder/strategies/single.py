"""One sample: the baseline that every other way of spending compute is compared with.

Paper    none; `single(temperature=0)` is greedy decoding.
Needs    Text only.    Cost: one draw.
"""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import strategy
from ponder.core.strategy import Result, Strategy
from ponder.errors import ParameterError


@strategy("single", what="parallel", how="stimulation:decode")
@dataclass(frozen=True)
class Single(Strategy):
    """Draw one output and return it.

    Args:
        temperature: overrides the study's; 0 is greedy. None keeps the study's, so that the one draw is
            the first of those that repeated sampling makes.
    """

    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and self.temperature < 0:
            raise ParameterError(self, "temperature", self.temperature, allowed="a number ≥ 0 or none")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Draw once; an output without an answer is returned all the same."""
        meta = None if self.temperature is None else {"temperature": self.temperature}
        candidates = await ctx.draw(problem, 1, meta=meta)
        usable = bool(candidates) and candidates[0].error is None
        return ctx.result(candidates, 0 if usable else None)
