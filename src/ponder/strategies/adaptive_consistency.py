"""Adaptive consistency: draw until the leading answer is unlikely to be overtaken, then take the majority.

Paper    Aggarwal et al. 2023, "Let's Sample Step by Step: Adaptive-Consistency for Efficient Reasoning and
         Coding with LLMs", §3.
Equal    After each sample: stop when P(leader's share > 1/2) ≥ 0.95 under Beta(v1 + 1, v2 + 1), at most 40
         samples. Share, entropy and Dirichlet criteria as in the released code.
Differs  The Beta tail is summed exactly, so threshold=1 never stops early (it is plain majority). With a
         batch of b up to b - 1 samples more than needed are drawn.
Needs    Text and an answer to extract.    Cost: at most n draws; n/batch round trips at worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.drivers import draw_and_select
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, strategy
from ponder.core.stopping import answer_counts, leader_doubt, leader_probability, normalised_entropy
from ponder.core.strategy import Result, Strategy
from ponder.errors import ParameterError

DEFAULT_THRESHOLDS = {"beta": 0.95, "share": 0.8, "entropy": 0.75, "dirichlet": 0.95}


@strategy("adaptive_consistency", aliases=("asc",), what="parallel", how="stimulation:repetition, aggregation:majority")
@dataclass(frozen=True)
class AdaptiveConsistency(Strategy):
    """Vote, but stop as soon as the vote is as good as decided.

    Args:
        n: draws at most, n ≥ 1; None takes the number from the study's sample axis. The paper uses 40.
        criterion: `beta` (chance that the leader beats the runner-up), `dirichlet` (chance that its share is
            the largest of the top five), `share` (its share of the valid answers), `entropy` (of the answer
            shares, normalised; the only one that stops when it is low).
        threshold: in [0, 1]; None takes 0.95 (beta, dirichlet), 0.8 (share), 0.75 (entropy).
        batch: draws between two looks; larger batches save round trips and may overshoot by batch - 1.
    """

    n: int | None = None
    criterion: Literal["beta", "share", "entropy", "dirichlet"] = "beta"
    threshold: float | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if self.criterion not in DEFAULT_THRESHOLDS:
            raise ParameterError(self, "criterion", self.criterion, allowed=f"one of {', '.join(DEFAULT_THRESHOLDS)}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ParameterError(self, "threshold", self.threshold, allowed="in [0, 1]", hint="1 never stops early")
        if self.batch < 1:
            raise ParameterError(self, "batch", self.batch, allowed="an integer ≥ 1")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Draw batch by batch until the criterion holds; the answer is the majority of what was drawn."""

        def decided(candidates: Sequence[Candidate]) -> str | None:
            return self.criterion if self.stops(answer_counts(candidates, ctx.same)) else None

        draws = await draw_and_select(problem, ctx, self.n or 1, stop=decided, batch=self.batch)
        result = ctx.result(draws.candidates, stopped=draws.stopped, samples=len(draws.candidates))
        return await ctx.select(result, SELECTORS.build("majority"))

    def stops(self, counts: Sequence[int]) -> bool:
        """Whether the criterion holds for these answer counts, largest first."""
        if not counts:
            return False
        threshold = DEFAULT_THRESHOLDS[self.criterion] if self.threshold is None else self.threshold
        if self.criterion == "beta":
            return leader_doubt(counts[0], counts[1] if len(counts) > 1 else 0) <= 1 - threshold
        if self.criterion == "dirichlet":
            return threshold < 1 and leader_probability(counts) >= threshold
        if sum(counts) < 2:
            return False
        if self.criterion == "share":
            return threshold < 1 and counts[0] / sum(counts) >= threshold
        return normalised_entropy(counts) <= threshold
