"""Abandon early: give a problem up when it will hardly be solved with the samples that are left.

Paper    none of its own; the posterior is that of the beta-binomial law of coverage (Schaeffer et al. 2025).
Equal    p ~ Beta(α, β); after n rejections r more samples bring a success with 1 - B(α, β + n + r) / B(α, β + n).
Differs  The horizon is what the problem may still spend, not one sample ahead (that is stop_at_saturation).
Needs    A verifier; a prior that fits the task.    Cost: at most n samples of the inner strategy, and their scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ponder.core.context import Context
from ponder.core.growth import Growth
from ponder.core.posteriors import chance_solved
from ponder.core.problem import Problem
from ponder.core.registry import STRATEGIES, VERIFIERS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.strategies._turns import Wrapping, in_turns

ABANDONED = "abandoned"


@strategy("abandon_early", what="parallel", how="verification:outcome", where="any")
@dataclass(frozen=True)
class AbandonEarly(Wrapping):
    """Sample until one is accepted, or until being solved within `n` is too unlikely.

    Args:
        n: samples at most, n ≥ 1; None takes the study's number of samples.
        strategy: what draws.
        verifier: says which samples are solutions.
        accept: least score of a solution.
        threshold: give up when the chance of a success among the samples left is below it, in [0, 1); 0 never does.
        alpha: of the prior Beta(α, β) of a sample's success; `ponder laws fit --law beta_binomial` gives a task's.
        beta: the other one.
        start: samples before the first look.
        batch: samples between two looks.
        abstain: a problem that is given up gets no answer, instead of the best-scored sample.
    """

    n: int | None = None
    strategy: Strategy = field(default_factory=lambda: STRATEGIES.build("repeated_sampling"))
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("llm_judge"))
    accept: float = 0.5
    threshold: float = 0.1
    alpha: float = 0.5
    beta: float = 0.5
    start: int = 1
    batch: int = 1
    abstain: bool = False

    def __post_init__(self) -> None:
        self.check_whole("n", "start", "batch")
        self.check_prior()
        if not 0 <= self.threshold < 1:
            raise ParameterError(self, "threshold", self.threshold, allowed="in [0, 1)", hint="0 never gives up")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Turn by turn until solved or given up."""

        def look(growth: Growth, left: int) -> str | None:
            scored, solved = growth.accepted(self.accept)
            if solved:
                return "accepted"
            chance = chance_solved(scored, solved, left, alpha=self.alpha, beta=self.beta)
            return ABANDONED if left and chance < self.threshold else None

        result = await in_turns(
            problem, ctx, self.strategy, self.n or 1, look,
            start=self.start, batch=self.batch, verifier=self.verifier,
        )  # fmt: skip
        if result.details["stopped"] == ABANDONED and self.abstain:
            reason = f"abandoned after {result.details['samples']} samples: none was accepted by {self.verifier}"
            return replace(result, chosen=(), status="abstain", reason=reason)
        return result
