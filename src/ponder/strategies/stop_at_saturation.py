"""Stop at saturation: draw until the next sample is no longer worth its price.

Paper    "Scaling over Scaling: Exploring Test-Time Scaling Plateau in Large Reasoning Models", 2025 (TTSPM): a unit
         gains F_max · p · (1 - p)^N, and beyond N* less than ε.
Equal    A few samples first, a Beta posterior of the problem's p, stop when the posterior-mean gain is at most ε.
         Without a verifier p is the share of the leading answer and the gain is E[p (1 - p)^n].
Differs  With a verifier the gain is conditional on what came: 0 once a sample is accepted, else E[p | n rejections] =
         α / (α + β + n). The unconditional form would count the rejections twice, and go on after a success. ε may
         be economic: the cost of a sample over the value of a solved problem.
Needs    Answers to vote on, or a verifier.    Cost: at most n samples of the inner strategy, and their scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ponder.core.context import Context
from ponder.core.growth import Growth
from ponder.core.posteriors import next_success, saturated_gain
from ponder.core.problem import Problem
from ponder.core.registry import STRATEGIES, strategy
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.strategies._turns import Wrapping, in_turns


@strategy("stop_at_saturation", what="parallel", how="aggregation, verification:outcome", where="any")
@dataclass(frozen=True)
class StopAtSaturation(Wrapping):
    """Sample until the posterior-mean gain of the next sample is at most ε.

    Args:
        n: samples at most, n ≥ 1; None takes the study's number of samples.
        strategy: what draws; in quotes with its selectors.
        epsilon: least gain that a sample is worth, > 0.
        value: of a solved problem in `currency`; then ε is the mean cost of a sample over it, instead of `epsilon`.
        currency: what `value` is counted in.
        start: samples before the first look; TTSPM takes 4.
        batch: samples between two looks.
        verifier: says which samples are solutions; none goes by the votes.
        accept: least score of a solution.
        alpha: of the prior Beta(α, β) of a sample's success; `ponder laws fit --law beta_binomial` gives a task's.
        beta: the other one.
    """

    n: int | None = None
    strategy: Strategy = field(default_factory=lambda: STRATEGIES.build("repeated_sampling"))
    epsilon: float = 0.01
    value: float | None = None
    currency: Literal["samples", "generated_tokens", "tokens", "calls", "function_evaluations", "cost_usd"] = "samples"
    start: int = 4
    batch: int = 1
    verifier: Verifier | None = None
    accept: float = 0.5
    alpha: float = 0.5
    beta: float = 0.5

    def __post_init__(self) -> None:
        self.check_whole("n", "start", "batch")
        self.check_prior()
        if not self.epsilon > 0:
            raise ParameterError(
                self, "epsilon", self.epsilon, allowed="a number > 0", hint="a gain of exactly 0 is never reached"
            )
        if self.value is not None and not 0 < self.value < float("inf"):
            raise ParameterError(self, "value", self.value, allowed="a number > 0 in the currency, or none")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Turn by turn until the gain is too small."""

        def look(growth: Growth, left: int) -> str | None:
            return "saturated" if left and self.gain(growth) <= self._least(growth) else None

        return await in_turns(
            problem, ctx, self.strategy, self.n or 1, look,
            start=self.start, batch=self.batch, verifier=self.verifier,
        )  # fmt: skip

    def gain(self, growth: Growth) -> float:
        """Posterior-mean gain of one more sample, in [0, 1]."""
        if self.verifier is not None:
            return next_success(*growth.accepted(self.accept), alpha=self.alpha, beta=self.beta)
        counts, invalid = growth.votes()
        return saturated_gain(sum(counts) + invalid, max(counts, default=0), alpha=self.alpha, beta=self.beta)

    def _least(self, growth: Growth) -> float:
        if self.value is None:
            return self.epsilon
        drawn = max(1, len(growth.candidates))
        spent = drawn if self.currency == "samples" else float(getattr(growth.ctx.ledger.total, self.currency))
        return spent / drawn / self.value
