"""Bayesian stopping: stop when the answers that are still to come will hardly change which one leads.

Paper    none of its own; the rule is the predictive form of Aggarwal et al. 2023 (adaptive consistency): not whether
         the leader is the likelier answer, but whether it will still lead after all n draws.
Equal    Answers follow a Dirichlet process with mass `unseen` for those not given yet; ties go to the earliest.
Differs  The horizon counts: a lead that the draws left cannot turn stops at once, whatever the shares. The chance is a
         lower bound (1 minus the sum over rivals), exact for two answers.
Needs    An answer to extract.    Cost: at most n samples of the inner strategy; n/batch turns at worst.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ponder.core.context import Context
from ponder.core.growth import Growth
from ponder.core.posteriors import chance_leader_stays
from ponder.core.problem import Problem
from ponder.core.registry import STRATEGIES, strategy
from ponder.core.strategy import Result, Strategy
from ponder.errors import ParameterError
from ponder.strategies._turns import Wrapping, in_turns


@strategy("bayesian_stopping", what="parallel", how="aggregation", where="any")
@dataclass(frozen=True)
class BayesianStopping(Wrapping):
    """Vote over at most `n` samples, but stop when the vote's leader is likely to stay.

    Args:
        n: samples at most, n ≥ 1; None takes the study's number of samples.
        strategy: what draws; in quotes with its selectors, which then choose instead of the majority.
        threshold: stop when the leader stays with at least this chance, in (0, 1]; 1 stops only when it is certain, so
            that the answer is that of all n samples.
        unseen: prior mass of answers not given yet, in votes, ≥ 0.
        start: samples before the first look.
        batch: samples between two looks.
    """

    n: int | None = None
    strategy: Strategy = field(default_factory=lambda: STRATEGIES.build("repeated_sampling"))
    threshold: float = 0.95
    unseen: float = 1.0
    start: int = 2
    batch: int = 1

    def __post_init__(self) -> None:
        self.check_whole("n", "start", "batch")
        if not 0 < self.threshold <= 1:
            raise ParameterError(self, "threshold", self.threshold, allowed="in (0, 1]", hint="1 is certainty")
        if not 0 <= self.unseen < float("inf"):
            raise ParameterError(self, "unseen", self.unseen, allowed="a number ≥ 0")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Turn by turn until the posterior is sure."""

        def look(growth: Growth, left: int) -> str | None:
            counts, invalid = growth.votes()
            stays = chance_leader_stays(counts, left, unseen=self.unseen, invalid=invalid)
            return "posterior" if left and stays >= self.threshold else None

        return await in_turns(problem, ctx, self.strategy, self.n or 1, look, start=self.start, batch=self.batch)
