"""Entropic particle filtering: resample less greedily while it is early and the particles are few of a kind.

Paper    "Mitigating Premature Exploitation in Particle-based Monte Carlo for Inference-Time Scaling" (2025).
Equal    When the effective sample size falls below half the particles in the first half of the steps, the
         resampling weights are flattened by a temperature (three schedules), and all offspring weigh the same;
         systematic resampling; look-ahead modulation as an auxiliary particle filter.
Differs  `correct=true` gives offspring the weights that make up for the tempering, so that the target stays exact
         (paper: silent). Look-ahead pays for its tentative successors, and the ledger shows it. The answer is
         the one with the most weight.
Needs    A process in steps with a known limit of steps, and a verifier of partial outputs.    Cost: n steps and n
         scores per level; twice that with look-ahead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from ponder import smc
from ponder.core.context import Context
from ponder.core.level_loop import Level, scorer
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.ledger.spend import Spend
from ponder.strategies._particles import (
    Filter,
    Final,
    FinishedRule,
    PotentialName,
    check_particles,
    filter_result,
    run_filter,
)

Annealing = Literal["ess", "entropy", "base", "none"]

_EXPLORATION = 2.0
"""The temperature that the schedule `base` begins with."""


def annealing_temperature(
    log_weights: Floats, progress: float, method: Annealing, *, ess_threshold: float = 0.5, early_phase: float = 0.5
) -> float:
    """The temperature (≥ 1) of resampling.

    Args:
        log_weights: of the particles.
        progress: steps made over steps in all, in (0, 1].
        method: `ess`: (N / ESS) · (1 - progress); `entropy`: 1 / (H + (1 - H) · progress) with the normalised
            entropy H; `base`: 2 - progress; `none`: 1.
        ess_threshold: nothing is done while ESS / N is at least this.
        early_phase: nor when progress is at least this.
    """
    if method == "none" or len(log_weights) < 2 or progress >= early_phase:
        return 1.0
    ratio = smc.effective_sample_size(log_weights) / len(log_weights)
    if ratio <= 0 or ratio >= ess_threshold:
        return 1.0
    if method == "ess":
        return max(1.0, (1.0 - progress) / ratio)
    if method == "entropy":
        h = smc.entropy(log_weights)
        return max(1.0, 1.0 / (h + (1.0 - h) * progress))
    return max(1.0, _EXPLORATION - progress)


@strategy("entropic_particle_filter", aliases=("epf",), what="hybrid", how="search:particle, verification:process")
@dataclass(frozen=True)
class EntropicParticleFilter(Strategy):
    """A particle filter that keeps its particles diverse while scores are early and over-confident.

    Args:
        n: particles; None takes the number from the study's sample axis.
        verifier: scores partial outputs.
        annealing: schedule of the resampling temperature: `ess`, `entropy`, `base` or `none`.
        ess_threshold: flatten only below this share of effective particles.
        early_phase: flatten only in this first share of the steps.
        max_steps: steps in all; None asks the process.
        look_ahead: weigh each particle for resampling by how good a tentative next step looks.
        correct: keep the target exact by weights on the offspring.
        potential: as in `particle_filter`.
        finished: as in `particle_filter`.
        scheme: of resampling.
        threshold: resample when the effective sample size is at most this share of the particles.
        final: `vote`, `best` or `sample`, as in `particle_filter`.
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    annealing: Annealing = "ess"
    ess_threshold: float = 0.5
    early_phase: float = 0.5
    max_steps: int | None = None
    look_ahead: bool = False
    correct: bool = False
    potential: PotentialName = "odds"
    finished: FinishedRule = "reapply"
    scheme: smc.Scheme = "systematic"
    threshold: float = 1.0
    final: Final = "vote"

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_particles(self, self.n, self.threshold, 1.0)
        for name in ("ess_threshold", "early_phase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(self, name, getattr(self, name), allowed="in [0, 1]")
        if self.max_steps is not None and self.max_steps < 1:
            raise ParameterError(self, "max_steps", self.max_steps, allowed="an integer ≥ 1, or none")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Filter to the end, then choose by weight."""
        steps = self.max_steps or ctx.process.horizon(problem)
        if steps is None:
            raise ParameterError(
                self, "max_steps", None, allowed="an integer ≥ 1",
                hint="this process has no limit of steps, and annealing goes by the share of steps made",
            )  # fmt: skip
        heats: list[float] = []

        def tempering(log_weights: Floats, number: int) -> float:
            heat = annealing_temperature(
                log_weights, number / steps, self.annealing,
                ess_threshold=self.ess_threshold, early_phase=self.early_phase,
            )  # fmt: skip
            heats.append(round(heat, 3))
            return heat

        rules = Filter(
            self.n or 1, self.verifier, self.potential, self.finished, self.scheme, self.threshold,
            tempering=tempering, correct=self.correct,
        )  # fmt: skip
        score = scorer(problem, ctx, self.verifier)

        async def modulate(level: Level) -> Floats:
            """log-potential of one tentative successor of each open member; it is then forgotten."""
            places = np.flatnonzero(level.open)
            tentative = await ctx.extend(
                [level.states[i] for i in places], [1] * len(places), hold=Spend(verifier_calls=1)
            )
            children = [child for group in tentative for child in group]
            level.tree.add(children, await score(children) if children else [])
            out = np.zeros(len(level.states))
            for place, group in zip(places, tentative, strict=True):
                for child in group:
                    value = rules.log_potential(level.tree, child, level.number + 1)
                    out[place] = value if np.isfinite(value) else -50.0
            return out

        search = await run_filter(problem, ctx, rules, score, modulate=modulate if self.look_ahead else None)
        return await filter_result(
            problem, ctx, search, [rules], rules.shares(search), self.final,
            log_evidence=rules.evidence(search), temperatures=heats,
        )  # fmt: skip
