"""Best-of-N: draw N finished outputs and keep the one that a verifier scores highest.

Paper    Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems", §4.
Equal    N independent draws, each scored once, argmax.
Differs  A tie goes to the earliest draw (paper: silent). Draws are scored while others are under way.
Needs    Text only, and any outcome verifier.    Cost: N draws and N scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ponder.core.context import Context
from ponder.core.drivers import draw_and_select
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError


@strategy("best_of_n", aliases=("bon",), what="parallel", how="verification:outcome, aggregation:best_of_n")
@dataclass(frozen=True)
class BestOfN(Strategy):
    """Draw `n` outputs and keep the best-scored one.

    Args:
        n: outputs to draw, n ≥ 1; None takes the number from the study's sample axis.
        verifier: gives the scores: `log_probability`, `exact`, `llm_judge(…)`, ….
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1", hint="n=1 is a plain draw")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Draw, score, take the best; abstain if no draw could be scored."""
        draws = await draw_and_select(problem, ctx, self.n or 1, verifier=self.verifier)
        scores = draws.scores if draws.scores is not None else np.empty(0)
        best = None if np.isnan(scores).all() else int(np.nanargmax(scores))
        reason = None if best is not None or not len(scores) else f"no draw could be scored by {self.verifier}"
        return ctx.result(draws.candidates, best, scores=scores, verifier=self.verifier, reason=reason)
