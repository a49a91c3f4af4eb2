"""Particle filtering: sample from the posterior of good outputs instead of maximising an imperfect score.

Paper    Puri et al. 2025, "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using
         Particle-Based Monte Carlo Methods".
Equal    n particles grow step by step; the odds of each step's score multiply a weight; resampling continues a particle
         as often as its weight says; a finished particle's last odds count again at every later step, so that all
         particles have equally many factors.
Differs  Resampling is systematic, and the answer is the one with the most posterior weight (the paper's own:
         `scheme=multinomial, final=best`). `finished=neutral` is the choice for which the target is exact where
         outputs differ in length.
Needs    A process in steps and a verifier of partial outputs.    Cost: n steps and n scores per level.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ponder.core.context import Context
from ponder.core.level_loop import scorer
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.smc import Scheme
from ponder.strategies._particles import (
    Filter,
    Final,
    FinishedRule,
    PotentialName,
    check_particles,
    filter_result,
    run_filter,
)


@strategy(
    "particle_filter", aliases=("pf", "particle_filtering"),
    what="hybrid", how="search:particle, verification:process",
)  # fmt: skip
@dataclass(frozen=True)
class ParticleFilter(Strategy):
    """Grow `n` particles and resample them by their scores.

    Args:
        n: particles; None takes the number from the study's sample axis. n=1 is plain sampling.
        verifier: scores partial outputs.
        potential: what a score r does to a weight: `odds` multiplies by r / (1 - r) (by exp(r) if the verifier's scores
            are not in [0, 1]), `product` by r, `exp` by exp(r); `telescope` multiplies by this score's odds over
            those of the one before, so that only the last counts in the end.
        finished: what finished particles do in later levels: `reapply` (their last G again), `neutral`
            (G = 1), `freeze` (left out of resampling).
        scheme: `systematic`, `stratified`, `multinomial` or `residual` resampling.
        threshold: resample when the effective sample size is at most this share of the particles: 1 is at every
            step, 0 never (importance sampling).
        score_temperature: potentials are taken to the power of 1 / this.
        final_temperature: if given, the score temperature moves there linearly.
        annealing_steps: over so many steps.
        on_dead: when no weight is left: `stop`, or go on with `uniform` weights (then no longer unbiased).
        final: the answer with the most weight (`vote`), the particle with the best last score (`best`), or one
            drawn by weight (`sample`).
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    potential: PotentialName = "odds"
    finished: FinishedRule = "reapply"
    scheme: Scheme = "systematic"
    threshold: float = 1.0
    score_temperature: float = 1.0
    final_temperature: float | None = None
    annealing_steps: int = 10
    on_dead: Literal["stop", "uniform"] = "stop"
    final: Final = "vote"

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_particles(self, self.n, self.threshold, self.score_temperature)
        check_particles(self, self.annealing_steps, self.threshold, self.final_temperature or 1.0)

    def temperature(self, number: int) -> float:
        """The score temperature of step `number` (from 1)."""
        start, end = self.score_temperature, self.final_temperature
        if end is None or number > self.annealing_steps or self.annealing_steps == 1:
            return start if end is None else end
        return start + (end - start) * (number - 1) / (self.annealing_steps - 1)

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Filter to the end, then choose by weight."""
        rules = Filter(
            self.n or 1, self.verifier, self.potential, self.finished, self.scheme, self.threshold, self.temperature,
            on_dead=self.on_dead,
        )  # fmt: skip
        search = await run_filter(problem, ctx, rules, scorer(problem, ctx, self.verifier))
        return await filter_result(
            problem, ctx, search, [rules], rules.shares(search), self.final,
            log_evidence=rules.evidence(search),
        )  # fmt: skip
